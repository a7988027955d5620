//! Since when a queued run is due, and so waits for a worker, or when its next attempt may begin.

/// When the queued run `$r` may be claimed again, also where that is past: NULL before its first claim, and where it waits
/// for nothing. Looked up by the id, and only of queued runs that were claimed before: that of any other one belongs to an
/// earlier run of its id. `$further`: a further condition on it.
macro_rules! not_before {
    ($db:ident $r:literal $($further:tt)*) => {
        $crate::store::sql::sql_for!(
            $db "CASE WHEN " $r ".status = 'queued' AND " $r ".started_at IS NOT NULL THEN (SELECT d.not_before FROM "
            own!(run_deliveries) " d WHERE d.run_id = " $r ".id" $($further)* ") END"
        )
    };
}

/// When the next attempt at the run `$r` may begin: NULL where it is due.
macro_rules! next_attempt_at {
    ($db:ident $r:literal) => {
        $crate::store::sql::sql_for!($db not_before!($r " AND d.not_before > " now!()))
    };
}

/// Whether a queued run is due. `$not_before`: see `not_before!`.
macro_rules! is_due {
    ($db:ident $($not_before:tt)+) => {
        $crate::store::sql::sql_for!($db "(" $($not_before)+ " > " now!() ") IS NOT TRUE")
    };
}

/// Since when a run is due that has the columns `recorded_at` and `not_before`.
macro_rules! due_since {
    ($db:ident) => {
        $crate::store::dialect::each!(
            $db "greatest(recorded_at, not_before)",
            "nullif(max(coalesce(recorded_at, ''), coalesce(not_before, '')), '')"
        )
    };
}

/// The seconds since a time.
macro_rules! seconds_since {
    ($db:ident $($time:tt)+) => {
        $crate::store::sql::sql_for!(
            $db each!("extract(epoch FROM now() - ", "(julianday('now') - julianday(") $($time)+
            each!(")::float8", ")) * 86400.0")
        )
    };
}

pub(super) use {due_since, is_due, next_attempt_at, not_before, seconds_since};
