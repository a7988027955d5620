//! Ids that several runs have.
//!
//! A unique key of a partitioned table contains the partition key, so a producer or a restored backup can give one id to
//! runs in two partitions. Nothing tells whose an attempt, a hint or a report of that id is. So none of these runs is
//! claimed, queued again, completed or pruned until one alone has the id: whatever decides so asks `has_own_id!`, or the
//! look-up `of_only_run!`. `invalid_runs` lists them, nothing counts them as waiting (`is_not_repeated!`), and reads show
//! the one that was recorded last (`is_newest_of_id!`). Rows of another type do not count.
//!
//! Where `operation_runs` is not partitioned, every row is in the table of this name, and no other row is looked for.

/// Whether the row `$r`, which is found by its id, is of verifyd's type, as an expression that no index covers: only the
/// index of ids is left. In a partition without statistics another index of this type looks shorter, and all of it
/// would be read for one id: no key tells the planner that a partition has an id once.
macro_rules! is_of_type {
    (postgres $r:literal) => {
        concat!($r, ".type || '' = ", $crate::store::dialect::run_type!())
    };
    (sqlite $r:literal) => {
        concat!($r, ".type = ", $crate::store::dialect::run_type!())
    };
}

/// Whether no other run has the id of the run `$r`. In a partitioned table a look-up by the id in each partition.
macro_rules! has_own_id {
    (postgres $r:literal) => {
        concat!(
            "CASE WHEN ",
            $r,
            ".tableoid = 'operation_runs'::regclass THEN true ELSE ",
            $crate::store::repeated_ids::is_only_one!($r),
            " END"
        )
    };
    (sqlite $r:literal) => {
        "true"
    };
}

/// Whether the run `$r` is not completed, and other runs have its id, so that no worker claims it.
macro_rules! shares_active_id {
    ($db:ident $r:literal) => {
        concat!(
            "CASE WHEN ",
            $r,
            ".status IN ('queued', 'running') THEN NOT (",
            $crate::store::repeated_ids::has_own_id!($db $r),
            ") ELSE false END"
        )
    };
}

/// `has_own_id!` for a role that may read no system column: no `tableoid`.
macro_rules! has_own_id_by_columns {
    (postgres $r:literal) => {
        concat!(
            "CASE WHEN ",
            $crate::store::repeated_ids::is_partitioned!(),
            " THEN ",
            $crate::store::repeated_ids::is_only_one!($r),
            " ELSE true END"
        )
    };
    (sqlite $r:literal) => {
        "true"
    };
}

/// The look-up of `has_own_id!`.
macro_rules! is_only_one {
    ($r:literal) => {
        concat!(
            "(SELECT count(*) = 1 FROM operation_runs same WHERE same.id = ",
            $r,
            ".id AND ",
            $crate::store::repeated_ids::is_of_type!(postgres "same"),
            ")"
        )
    };
}

/// An array of the ids that several runs have, of the first 1,000 runs that are not completed: whoever reads all of these
/// cannot look each of them up. Empty, and found to be so once, where the table is not partitioned.
macro_rules! repeated_active_ids {
    ($($db:ident)?) => {
        concat!(
            "ARRAY(SELECT a.id FROM (SELECT q.id FROM operation_runs q WHERE q.type = ",
            $crate::store::dialect::run_type!(),
            " AND q.status IN ('queued', 'running') AND ",
            $crate::store::repeated_ids::is_partitioned!(),
            " ORDER BY q.id LIMIT 1000) a
              WHERE (SELECT count(*) > 1 FROM operation_runs same WHERE same.id = a.id AND ",
            $crate::store::repeated_ids::is_of_type!(postgres "same"),
            "))"
        )
    };
}

/// Whether the table is partitioned. Tested once, before any row is read.
macro_rules! is_partitioned {
    ($($db:ident)?) => {
        "(SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = 'operation_runs'::regclass)"
    };
}

/// Whether `repeated_active_ids!` is without the run `$r`, which is not completed.
macro_rules! is_not_repeated {
    (postgres $r:literal) => {
        concat!(
            $r,
            ".id <> ALL (",
            $crate::store::repeated_ids::repeated_active_ids!(),
            ")"
        )
    };
    (sqlite $r:literal) => {
        "true"
    };
}

/// Whether the run `$r` is the one of its id that is shown.
macro_rules! is_newest_of_id {
    (postgres $r:literal) => {
        concat!(
            "CASE WHEN ",
            $r,
            ".tableoid = 'operation_runs'::regclass THEN true
              ELSE NOT EXISTS (SELECT FROM operation_runs newer WHERE newer.id = ",
            $r,
            ".id AND ",
            $crate::store::repeated_ids::is_of_type!(postgres "newer"),
            " AND newer.created_at >= ",
            $r,
            ".created_at AND (newer.created_at > ",
            $r,
            ".created_at OR newer.tableoid > ",
            $r,
            ".tableoid)) END"
        )
    };
    (sqlite $r:literal) => {
        "true"
    };
}

/// A condition on the run `r` whose id is `$id`, as a value. NULL: no run has this id, or several have it.
macro_rules! of_only_run {
    (postgres $id:literal, $($condition:tt)+) => {
        concat!(
            "(SELECT bool_and(",
            $crate::store::sql::sql_for!(postgres $($condition)+),
            ") FROM operation_runs r WHERE r.id = ",
            $id,
            " AND ",
            $crate::store::repeated_ids::is_of_type!(postgres "r"),
            " HAVING count(*) = 1)"
        )
    };
    (sqlite $id:literal, $($condition:tt)+) => {
        concat!(
            "(SELECT ",
            $crate::store::sql::sql_for!(sqlite $($condition)+),
            " FROM operation_runs r WHERE r.id = ",
            $id,
            " AND ",
            $crate::store::repeated_ids::is_of_type!(sqlite "r"),
            ")"
        )
    };
}

pub(super) use {
    has_own_id, has_own_id_by_columns, is_newest_of_id, is_not_repeated, is_of_type, is_only_one,
    is_partitioned, of_only_run, repeated_active_ids, shares_active_id,
};
