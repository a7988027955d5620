//! Which values of columns that another application writes may be computed with and loaded: one rule for
//! times, sizes and texts, as SQL. `octet_length` of a column does not read its content.

/// A time in the form in which verifyd writes it; NULL where it is none.
macro_rules! time {
    ($column:literal) => {
        $crate::store::sql::sql!("strftime('%Y-%m-%dT%H:%M:%fZ', " $column ")")
    };
}
pub(super) use time;

/// The beginning of a text: more than any name that means something.
macro_rules! short {
    ($column:literal) => {
        $crate::store::sql::sql!("substr(" $column ", 1, 300)")
    };
}
pub(super) use short;

/// Whether a list may look into a JSON text.
macro_rules! is_listed {
    ($json:literal) => {
        $crate::store::sql::sql!("(octet_length(" $json ") <= 1048576)")
    };
}
pub(super) use is_listed;

/// A text or number in a JSON text as a short text; NULL where it is anything else.
macro_rules! member {
    ($json:literal, $path:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN json_type(" $json ", '" $path
            "') IN ('text', 'integer', 'real') THEN substr(CAST(" $json " ->> '" $path
            "' AS TEXT), 1, 300) END"
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
        "c.status IN ('enabled', 'disabled')"
    };
}
pub(super) use is_valid_connection;

/// The columns of a `ContextRow`, of `operation_runs`. `$bytes`: the parameter with the largest size.
macro_rules! context_columns {
    ($bytes:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN octet_length(context) <= " $bytes
            " THEN context END AS context, CASE WHEN octet_length(context) <= " $bytes
            " THEN 'fits' WHEN octet_length(context) <= 16777216 THEN 'large' ELSE 'huge' END
              AS context_state, octet_length(context) <= 32768 AS context_is_small"
        )
    };
}
pub(super) use context_columns;
