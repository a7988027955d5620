//! Keeps a worker to the runs of its group of workspaces. Each statement that looks for runs has a second text for this, as
//! a [`Grouped`]: without groups nothing is tested.

use super::bounds::{is_claimable, time};
use super::dialect::{
    a_day_ago, a_second_after, among, before, each, has_active_status, now, own, run_type,
};
use super::repeated_ids::{has_own_id, is_of_type, of_only_run};
use super::rows::CountsRow;
use super::runs::COUNTS;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, read, transaction};
use super::statement::{Sql, Statement};
use super::sweep::{DUE, MARK_UNDISPATCHED, is_delivery_of_earlier, left_at};
use crate::domain::RunId;
use crate::domain::groups::GroupMembers;
use crate::ports::groups::GroupStore;
use crate::ports::runs::RunCounts;
use crate::ports::store_error::StoreError;
use crate::ports::sweep::SweepPolicy;
use async_trait::async_trait;

/// Whether a group has the workspace `$workspace`. `$listed`, `$has_listed`: see `GroupMembers`.
macro_rules! in_group {
    (postgres $workspace:literal, $listed:literal, $has_listed:literal) => {
        concat!(
            "coalesce(",
            $workspace,
            " = ANY(",
            $listed,
            "::bigint[]), false) = ",
            $has_listed
        )
    };
    (sqlite $workspace:literal, $listed:literal, $has_listed:literal) => {
        concat!(
            "coalesce(",
            $workspace,
            " IN (SELECT value FROM json_each(",
            $listed,
            ")), 0) = ",
            $has_listed
        )
    };
}

/// Text of the statement for a group alone. A macro makes both statements: `$of` is `all`, or `group`.
macro_rules! of_group {
    ($db:ident all $($part:tt)+) => {
        ""
    };
    ($db:ident group $($part:tt)+) => {
        $crate::store::sql::sql_for!($db $($part)+)
    };
}
pub(super) use {in_group, of_group};

/// A statement for all runs, and the one for those of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouped<S> {
    pub all: S,
    pub in_group: S,
}

impl<S> Grouped<S> {
    /// Returns the one for the group, if there is one.
    pub fn of(self, group: Option<&GroupMembers>) -> S {
        match group {
            Some(_) => self.in_group,
            None => self.all,
        }
    }
}

/// Whether the run of `d.run_id` is, may be claimed, and is the group's.
macro_rules! is_queued_here {
    ($db:ident) => {
        of_only_run!(
            $db "d.run_id", "r.status = 'queued' AND " is_claimable!() " AND " in_group!("r.workspace_id", "$8", "$9")
        )
    };
}

/// Whether the run `w` of a window needs a hint: it has none, or is undelivered, or (`$1`) delivered too long ago (`$2`).
macro_rules! needs_hint {
    ($db:ident) => {
        sql_for!(
            $db "CASE WHEN (SELECT true FROM " own!(run_deliveries) " d WHERE d.run_id = w.id AND ("
            is_delivery_of_earlier!() ") IS NOT TRUE AND (d.not_before > " now!()
            " OR d.delivered_at IS NOT NULL AND NOT ($1 AND d.delivered_at < " before!("$2")
            "))) THEN false ELSE " of_only_run!("w.id", is_claimable!()) " END"
        )
    };
}

/// The due runs of the group among the queued ones between two ids, whatever group those are of: see `window!` of
/// the sweep.
macro_rules! window {
    ($db:ident $name:literal, $between:literal) => {
        sql_for!(
            $db $name
            " AS MATERIALIZED (SELECT r.id, r.started_at, r.created_at, r.workspace_id FROM operation_runs r
                WHERE r.type = " run_type!() " AND " has_active_status!("queued") " AND " $between
            " ORDER BY r.id LIMIT $7), undispatched_" $name
            " AS MATERIALIZED (SELECT w.id FROM " $name " w WHERE " in_group!("w.workspace_id", "$8", "$9") " AND "
            needs_hint!() each!("", " ORDER BY w.id") " LIMIT $3)"
        )
    };
}

/// The due runs of a group, as `DUE` of the sweep finds those of all. How many runs of other groups wait, for how long,
/// does not matter to it: it reads a window ahead and one behind, whose runs may also be undelivered or delivered too long
/// ago, and as many undelivered ones, in no order, for runs that are due again. Where other groups, without workers, have
/// more of these, the windows find such a run later. `$8`, `$9`: the group.
const DUE_IN_GROUP: Sql = both!(
    "WITH " window!("ahead", "r.id > $5") ", " window!("behind", "r.id > $6 AND r.id <= $5")
    ", due AS (SELECT id FROM undispatched_ahead UNION SELECT id FROM undispatched_behind
        UNION
        SELECT * FROM (SELECT d.run_id FROM (SELECT u.run_id FROM " own!(run_deliveries) " u
          WHERE u.delivered_at IS NULL AND (u.not_before IS NULL OR u.not_before <= " now!() ") LIMIT $7) d
          WHERE " is_queued_here!() " LIMIT $3) undelivered
        UNION
        SELECT d.run_id FROM "
    each!("unnest($4::bigint[]) AS d (run_id)", "(SELECT value AS run_id FROM json_each($4)) d")
    " WHERE " is_queued_here!() " ORDER BY 1 LIMIT $3)
     SELECT "
    each!(
        "to_json(ARRAY(SELECT id FROM due ORDER BY id))",
        "(SELECT json_group_array(id) FROM due)"
    )
    ", " left_at!("ahead") ", " left_at!("behind")
);

pub(super) const DUE_RUNS: Grouped<Sql> = Grouped {
    all: DUE,
    in_group: DUE_IN_GROUP,
};

/// Deletes the undelivered rows of runs that are gone from a window of deliveries: `$2` of them, after the run `$1`.
/// `FORGET_ORPHANS` of the sweep reads the first undelivered rows, in no order. A group without workers may have all of
/// these, and then the statement never gets to the others.
const FORGET_ORPHANS_OF_WINDOW: Sql = both!(
    "DELETE FROM " own!(run_deliveries) " WHERE run_id " each!("= ANY(ARRAY(", "IN (")
    "   SELECT o.run_id FROM (
            SELECT d.run_id, d.delivered_at, d.not_before FROM " own!(run_deliveries) " d
            WHERE d.run_id > $1 ORDER BY d.run_id LIMIT $2) o
        WHERE o.delivered_at IS NULL AND (o.not_before IS NULL OR o.not_before < " a_day_ago!() ") AND "
    of_only_run!("o.run_id", "r.status IN ('queued', 'running')") " IS NOT TRUE" each!("))", ")")
);

/// Those of these runs that are queued and of a group: `$2`, `$3`.
const QUEUED_IN_GROUP: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id " among!("$1") " AND " is_of_type!("r")
    " AND r.status || '' = 'queued' AND " has_own_id!("r") " AND " in_group!("r.workspace_id", "$2", "$3")
);

/// Deletes the rows of undispatched runs, which do not take the places of others where their group has no workers. One that
/// has waited keeps its row, and with it since when it is due.
const FORGET_DELIVERIES: Sql = both!(
    "DELETE FROM " own!(run_deliveries) " WHERE run_id " among!("$1")
    " AND delivered_at IS NULL AND not_before IS NULL"
);

/// Adds the parameters of `in_group!`, where there is a group.
pub(super) fn bind_group(statement: Statement, group: Option<&GroupMembers>) -> Statement {
    match group {
        Some(group) => statement.bind(&group.listed[..]).bind(group.has_listed),
        None => statement,
    }
}

/// Deletes what runs that are gone have left among the deliveries behind the cursor, which moves round and round.
/// Returns how many rows. Where there are no groups, a sweep delivers what it finds undelivered, and nothing stays.
pub(super) async fn forget_orphans_of_window(
    tx: &mut dyn SqlConnection,
    group: Option<&GroupMembers>,
    policy: &SweepPolicy,
) -> Result<u64, StoreError> {
    if group.is_none() {
        return Ok(0);
    }
    let forget = FORGET_ORPHANS_OF_WINDOW.bind(policy.from.again_after.0);
    forget.bind(policy.window).execute(tx).await
}

#[async_trait]
impl<S: SqlStore> GroupStore for S {
    fn serve_group(&self, group: GroupMembers) {
        let _ = self.in_process().group.set(group);
    }

    async fn hand_over(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let Some(group) = self.in_process().group.get() else {
            return Ok(Vec::new());
        };
        let others = GroupMembers {
            has_listed: !group.has_listed,
            ..group.clone()
        };
        let runs: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let queued = bind_group(QUEUED_IN_GROUP.bind(runs), Some(&others));
        let handed_over = transaction(self, async |tx| {
            let handed_over = queued.fetch_ids(tx).await?;
            if !handed_over.is_empty() {
                // A row whose wait is over must be undispatched, or the run gets no hint. The others are locked, too, in the
                // order of their ids, before some are deleted: see `MARK_DELIVERIES` of the sweep.
                let mark = MARK_UNDISPATCHED.bind(&handed_over[..]);
                mark.execute(tx).await?;
                let forget = FORGET_DELIVERIES.bind(&handed_over[..]);
                forget.execute(tx).await?;
            }
            Ok::<_, StoreError>(handed_over)
        })
        .await?;
        Ok(handed_over.into_iter().map(RunId).collect())
    }

    async fn counts_of_group(&self, group: &GroupMembers) -> Result<RunCounts, StoreError> {
        let count = bind_group(COUNTS.of(Some(group)).into(), Some(group));
        let counts: CountsRow = read(self, async |tx| count.fetch_one(tx).await).await?;
        Ok(counts.into())
    }
}
