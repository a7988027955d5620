//! Which values of columns that another application writes may be computed with and loaded: one rule for
//! times, sizes and texts, as SQL.
//!
//! A `jsonb` value is stored compressed, up to 255 times smaller than it is, and a number in it up to ten
//! thousand times shorter than its text. So a size is tested in steps, each of which makes the next one
//! cheap: the stored size (nothing is read), the unpacked size (`#> '{}'` is the value itself, unpacked),
//! numbers of thousands of digits, and at last the length of the text.

/// The time if it is one of the years 1 to 9999, so that it can be subtracted and compared; PostgreSQL
/// refuses to subtract `infinity`.
macro_rules! time {
    ($column:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN " $column
            "::timestamptz BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
              THEN " $column "::timestamptz END"
        )
    };
}
pub(super) use time;

/// The beginning of a text: more than any name that means something.
macro_rules! short {
    ($column:literal) => {
        $crate::store::sql::sql!("left(" $column "::text, 300)")
    };
}
pub(super) use short;

/// Unpacked bytes above which numbers are looked at before a text is made.
macro_rules! has_endless_numbers {
    ($json:literal) => {
        $crate::store::sql::sql!(
            "(pg_column_size(" $json " #> '{}') > 2048 AND " $json
            " @? '$.** ? (@.type() == \"number\" && (@ > 1e2000 || @ < -1e2000
                          || (@ < 1e-2000 && @ > -1e-2000 && @ != 0)))')"
        )
    };
}
pub(super) use has_endless_numbers;

/// Whether a `jsonb` is so small that a batch can read it: that takes no time and cannot fail.
macro_rules! is_small {
    ($json:literal) => {
        $crate::store::sql::sql!(
            "(CASE WHEN pg_column_size(" $json ") > 32768 THEN false WHEN pg_column_compression(" $json
            ") IS NULL THEN true WHEN pg_column_size(" $json ") > 8192 THEN false ELSE pg_column_size("
            $json " #> '{}') <= 32768 END IS NOT FALSE)"
        )
    };
}
pub(super) use is_small;

/// Whether the text of a `jsonb` has at most this number of bytes. Never builds a text that is much longer.
macro_rules! fits {
    ($json:literal, $bytes:literal) => {
        $crate::store::sql::sql!(
            "(CASE WHEN pg_column_size(" $json ") > 8 * " $bytes " THEN false WHEN pg_column_size("
            $json " #> '{}') > 8 * " $bytes " THEN false WHEN "
            crate::store::postgres::bounds::has_endless_numbers!($json) " THEN false ELSE octet_length("
            $json "::text) <= " $bytes " END IS TRUE)"
        )
    };
}
pub(super) use fits;

/// Whether a list may look into a `jsonb`: unpacking those of a page must not take seconds.
macro_rules! is_listed {
    ($json:literal) => {
        $crate::store::sql::sql!(
            "(pg_column_size(" $json ") <= CASE WHEN pg_column_compression(" $json
            ") IS NULL THEN 1048576 ELSE 65536 END)"
        )
    };
}
pub(super) use is_listed;

/// A text or number in a `jsonb` as a short text; NULL for any other value. (The text of an array may be as
/// long as memory is large.)
macro_rules! member {
    ($json:literal, $path:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN jsonb_typeof(" $json " #> '" $path "') IN ('string', 'number') THEN left(" $json
            " #>> '" $path "', 300) END"
        )
    };
}
pub(super) use member;

/// Whether the row is shown as a run: callers may name its id, and status and outcome are known.
/// `invalid_runs` lists the others.
macro_rules! is_shown {
    () => {
        "id > 0 AND status IN ('queued', 'running', 'completed')
         AND (outcome IS NULL OR outcome IN ('succeeded', 'failed', 'blocked'))"
    };
}
pub(super) use is_shown;

/// Whether a queued run can ever be claimed. `invalid_runs` lists the others.
macro_rules! is_claimable {
    () => {
        "r.outcome IS NULL AND r.completed_at IS NULL AND r.id > 0"
    };
}
pub(super) use is_claimable;

/// Whether the row of a connection is valid.
macro_rules! is_valid_connection {
    () => {
        "c.status IN ('enabled', 'disabled') AND c.workspace_id IS NOT NULL
         AND c.tenant_id IS NOT NULL AND c.provider IS NOT NULL"
    };
}
pub(super) use is_valid_connection;

/// The columns of a `ContextRow`, of `operation_runs r`, all NULL unless `$when`. `$bytes`: the parameter
/// with the largest size.
macro_rules! context_columns {
    ($when:literal, $bytes:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN " $when " AND " crate::store::postgres::bounds::fits!("r.context", $bytes)
            " THEN r.context END AS context, CASE WHEN NOT " $when
            " THEN NULL WHEN r.context IS NULL THEN 'null'
                  WHEN pg_column_size(r.context) > 16777216 THEN 'huge'
                  WHEN pg_column_size(r.context #> '{}') > 16777216 THEN 'huge'
                  WHEN " crate::store::postgres::bounds::fits!("r.context", $bytes) " THEN 'fits' WHEN "
            crate::store::postgres::bounds::has_endless_numbers!("r.context")
            " THEN 'unreadable' ELSE 'large' END AS context_state, CASE WHEN " $when " THEN "
            crate::store::postgres::bounds::is_small!("r.context") " END AS context_is_small"
        )
    };
}
pub(super) use context_columns;
