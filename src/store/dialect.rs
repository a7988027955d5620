//! The parts of shared statements that differ between the databases. Each macro gets the name of the database
//! first: see `sql::both`.

/// Text for each database.
macro_rules! each {
    (postgres $postgres:literal, $sqlite:literal) => {
        $postgres
    };
    (sqlite $postgres:literal, $sqlite:literal) => {
        $sqlite
    };
}

/// Text for PostgreSQL alone: locks, of which SQLite needs none, since its writers come one after another.
macro_rules! postgres_only {
    (postgres $text:literal) => {
        $text
    };
    (sqlite $text:literal) => {
        ""
    };
}

/// A table of verifyd's own.
macro_rules! own {
    (postgres $table:ident) => {
        concat!("verifyd.", stringify!($table))
    };
    (sqlite $table:ident) => {
        concat!("verifyd_", stringify!($table))
    };
}

/// The database's time; the same for all of a statement.
macro_rules! now {
    (postgres) => {
        "now()"
    };
    (sqlite) => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}

/// The time of the moment: later than `now` where the transaction has waited for a lock.
macro_rules! clock {
    (postgres) => {
        "clock_timestamp()"
    };
    (sqlite) => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}

/// The database's time, a day earlier.
macro_rules! a_day_ago {
    (postgres) => {
        "now() - interval '1 day'"
    };
    (sqlite) => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 day')"
    };
}

/// The database's time, moved by a parameter: `Value::Later`.
macro_rules! after {
    (postgres $parameter:literal) => {
        concat!("now() + make_interval(secs => ", $parameter, ")")
    };
    (sqlite $parameter:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ", $parameter, ")")
    };
}

/// The database's time, moved by a parameter: `Value::Earlier`.
macro_rules! before {
    (postgres $parameter:literal) => {
        concat!("now() - make_interval(secs => ", $parameter, ")")
    };
    (sqlite $parameter:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ", $parameter, ")")
    };
}

/// Whether a value is among those of a parameter: `Value::Integers` or `Value::Texts`.
macro_rules! among {
    (postgres $parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
    (sqlite $parameter:literal) => {
        concat!("IN (SELECT value FROM json_each(", $parameter, "))")
    };
}

/// `domain::run::RUN_TYPE` as an SQL literal: the planner must see it to use a partial index.
macro_rules! run_type {
    ($($db:ident)?) => {
        "'provider.connection.check'"
    };
}

/// Whether the run `r` has this status, `queued` or `running`. SQLite takes the index of active runs where its own
/// condition is repeated. `range`: PostgreSQL, too, because only this index has the order by status and id: if one status
/// were left, the planner would read the whole history in the order of the primary key.
macro_rules! has_active_status {
    (postgres $status:literal) => {
        concat!("r.status = '", $status, "'")
    };
    (postgres range $status:literal) => {
        concat!(
            "r.status IN ('queued', 'running') AND r.status BETWEEN '",
            $status,
            "' AND '",
            $status,
            "'"
        )
    };
    (sqlite $(range)? $status:literal) => {
        concat!(
            "r.status IN ('queued', 'running') AND r.status = '",
            $status,
            "'"
        )
    };
}

/// Whether an attempt is a failed completion. Attempts of an earlier run do not count.
macro_rules! is_failed_completion {
    ($($db:ident)?) => {
        "NOT earlier AND NOT counted AND end_reason IN ('worker_lost', 'error', 'superseded')"
    };
}

/// A time of a table that may belong to another application. PostgreSQL also accepts one without time zone,
/// as UTC.
macro_rules! at {
    (postgres $column:expr) => {
        concat!($column, "::timestamptz")
    };
    (sqlite $column:expr) => {
        $column
    };
}

/// The same, in a form that can be compared. In SQLite it is NULL where it is no time.
macro_rules! moment {
    (postgres $column:expr) => {
        concat!($column, "::timestamptz")
    };
    (sqlite $column:expr) => {
        $crate::store::bounds::time!(sqlite $column)
    };
}

/// A time plus one second: the tolerance between clocks of one server, and for applications that round times
/// to seconds.
macro_rules! a_second_after {
    (postgres $column:expr) => {
        concat!($column, "::timestamptz + interval '1 second'")
    };
    (sqlite $column:expr) => {
        concat!(
            "strftime('%Y-%m-%dT%H:%M:%fZ', ",
            $column,
            ", '+1 seconds')"
        )
    };
}

/// A time of verifyd's own minus one second: the same tolerance.
macro_rules! a_second_before {
    (postgres $column:expr) => {
        concat!($column, " - interval '1 second'")
    };
    (sqlite $column:expr) => {
        concat!(
            "strftime('%Y-%m-%dT%H:%M:%fZ', ",
            $column,
            ", '-1 seconds')"
        )
    };
}

/// Whether a time of another application's table lies within a second of a time of verifyd's own.
macro_rules! is_about {
    (postgres $theirs:expr, $own:expr) => {
        concat!(
            $theirs,
            "::timestamptz BETWEEN ",
            $own,
            " - interval '1 second' AND ",
            $own,
            " + interval '1 second'"
        )
    };
    (sqlite $theirs:expr, $own:expr) => {
        concat!(
            "abs(julianday(",
            $crate::store::bounds::time!(sqlite $theirs),
            ") - julianday(",
            $own,
            ")) <= 1.0 / 86400.0"
        )
    };
}

pub(super) use {
    a_day_ago, a_second_after, a_second_before, after, among, at, before, clock, each,
    has_active_status, is_about, is_failed_completion, moment, now, own, postgres_only, run_type,
};

#[cfg(test)]
mod tests {
    #[test]
    fn the_literal_is_the_domains_type() {
        assert_eq!(run_type!(), format!("'{}'", crate::domain::run::RUN_TYPE));
    }
}
