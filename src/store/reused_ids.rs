//! Excludes data of an earlier run, or an earlier connection, with the same id.
//!
//! `operation_runs` may belong to another application, so nothing in it distinguishes one run of an id from
//! the next. A claim sets `started_at` with the first attempt: a queued run without it was never claimed, so
//! ended attempts belong to an earlier run. So do those up to one that completed the run, while the run is
//! not completed. The first claim marks them (`run_attempts.earlier`). A completed run that was restored has
//! none of the attempts that began after its completion.
//!
//! A connection is told from an earlier one by its `created_at`: what is older than that is not about it.

use super::dialect::{a_second_after, a_second_before, moment, now, own, run_type};
use super::repeated_ids::{is_newest_of_id, is_of_type};
use super::sql::{both, sql_for};
use super::sql_store::SqlConnection;
use super::statement::Sql;
use crate::domain::RunId;
use crate::ports::store_error::StoreError;

/// Whether the ended attempt `a` belongs to an earlier run than `r`, as far as the other attempts are not
/// needed to decide: `r` was never claimed, or its first claim was later.
macro_rules! is_before_start {
    ($db:ident $r:literal) => {
        $crate::store::sql::sql_for!(
            $db "(" $r ".started_at IS NULL OR " a_second_after!("a.claimed_at") " < "
            moment!(concat!($r, ".started_at")) " AND " moment!(concat!($r, ".started_at")) " <= "
            now!() ")"
        )
    };
}

/// Whether the attempt `a` belongs to an earlier run than `r`, which is not completed. An open one does if
/// the run was recorded after it had begun; an undecidable open one is regarded as an attempt of `r`.
macro_rules! is_earlier {
    ($db:ident) => {
        sql_for!(
            $db "CASE WHEN a.ended_at IS NULL THEN r.started_at IS NULL AND "
            a_second_after!("a.claimed_at") " < " moment!("r.created_at") " AND " moment!("r.created_at")
            " <= " now!() " ELSE " is_before_start!("r")
            " OR a.attempt <= coalesce((SELECT max(c.attempt) FROM " own!(run_attempts) " c
                 WHERE c.run_id = a.run_id AND c.end_reason = 'completed'), 0) END"
        )
    };
}

/// Begins after the run was locked, so it sees the attempts as they are.
const SET_ASIDE: Sql = Sql {
    postgres: sql_for!(
        postgres "UPDATE verifyd.run_attempts a SET earlier = true,
            ended_at = coalesce(a.ended_at, clock_timestamp()),
            end_reason = coalesce(a.end_reason, 'superseded')
        FROM operation_runs r WHERE a.run_id = $1 AND NOT a.earlier AND r.id = a.run_id AND "
        is_of_type!("r") " AND (" is_earlier!() ")"
    ),
    sqlite: sql_for!(
        sqlite "UPDATE verifyd_run_attempts SET earlier = 1, ended_at = coalesce(ended_at, " now!()
        "), end_reason = coalesce(end_reason, 'superseded')
        WHERE run_id = $1 AND NOT earlier AND attempt IN (
            SELECT a.attempt FROM verifyd_run_attempts a JOIN operation_runs r ON r.id = a.run_id
            WHERE a.run_id = $1 AND r.type = " run_type!() " AND (" is_earlier!() "))"
    ),
};

/// Without an attempt of its own a run waits for nothing.
const FORGET_WAIT: Sql = both!(
    "UPDATE " own!(run_deliveries) " SET not_before = NULL WHERE run_id = $1 AND not_before IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM " own!(run_attempts) " a WHERE a.run_id = $1 AND NOT a.earlier)"
);

/// Whether the attempt `a` began after `r` was completed: it belongs to a later run of the id, and the row of `r`
/// was restored. A completion before the start is an error of a clock, and says nothing.
macro_rules! is_after_completion {
    ($db:ident) => {
        sql_for!(
            $db "(r.status = 'completed' AND " moment!("r.completed_at") " < "
            a_second_before!("a.claimed_at") " AND (" moment!("r.completed_at") " < "
            moment!("r.started_at") ") IS NOT TRUE)"
        )
    };
}

/// The attempts of the present run, numbered from 1.
pub(super) const OWN_ATTEMPTS: Sql = both!(
    "SELECT a.run_id, CAST(row_number() OVER (ORDER BY a.attempt) AS integer) AS attempt,
            a.worker_id, a.counted, a.claimed_at, a.ended_at, a.end_reason,
            a.result_refusal, a.requeue_refusal
     FROM " own!(run_attempts) " a JOIN operation_runs r ON r.id = a.run_id AND " is_of_type!("r")
    " AND " is_newest_of_id!("r") " WHERE a.run_id = $1 AND NOT a.earlier AND (CASE WHEN r.status = 'completed'
          AND a.ended_at IS NOT NULL THEN " is_before_start!("r") " ELSE " is_earlier!()
    " END OR " is_after_completion!() ") IS NOT TRUE ORDER BY a.attempt"
);

/// Whether `l`, a row of `latest_reports`, is of an existing run: completed at that time, and of this
/// workspace and tenant.
macro_rules! is_of_its_run {
    ($db:ident $workspace:literal, $tenant:literal) => {
        $crate::store::sql::sql_for!(
            $db "EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = l.operation_run_id AND p.type = "
            run_type!() " AND p.status = 'completed' AND p.workspace_id = " $workspace
            " AND p.tenant_id = " $tenant " AND " is_about!("p.completed_at", "l.completed_at") ")"
        )
    };
}

/// The same; and the run is of this connection and has this fingerprint. A context of excessive size is not
/// read.
macro_rules! is_of_its_run_and_connection {
    ($db:ident $workspace:literal, $tenant:literal) => {
        $crate::store::sql::sql_for!(
            $db "EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = l.operation_run_id AND p.type = "
            run_type!() " AND p.status = 'completed' AND p.workspace_id = " $workspace
            " AND p.tenant_id = " $tenant " AND " is_about!("p.completed_at", "l.completed_at")
            " AND CASE WHEN " is_listable!("p.context") " THEN " connection_of_context!("p.context")
            " = CAST(l.connection_id AS text) AND " member!("p.context", verification_report fingerprint)
            " = l.fingerprint END)"
        )
    };
}

/// Whether a row that names the connection `c` is about an earlier connection of the same id: this time of the
/// row lies before the creation of `c`. Where `c` has no valid time of creation, or one without its time zone,
/// the row is about `c`.
macro_rules! is_before_creation {
    ($db:ident $time:literal) => {
        $crate::store::sql::sql_for!(
            $db "((" each!("pg_typeof(c.created_at) = 'timestamptz'::regtype AND ", "")
            a_second_after!($time) " < " moment!("c.created_at") " AND "
            moment!("c.created_at") " <= " now!() ") IS TRUE)"
        )
    };
}

/// `JOIN latest_reports l` of the connection `c`: a report of another tenant, of an earlier run of the same id, or
/// of an earlier connection, is as good as none.
macro_rules! latest_report_of_connection {
    ($db:ident) => {
        $crate::store::sql::sql_for!(
            $db own!(latest_reports) " l ON l.connection_id = c.id AND NOT "
            is_before_creation!("l.completed_at") " AND "
            is_of_its_run!("c.workspace_id", "c.tenant_id")
        )
    };
}

/// `JOIN connection_facts f` of the connection `c`.
macro_rules! facts_of_connection {
    ($db:ident) => {
        $crate::store::sql::sql_for!(
            $db own!(connection_facts) " f ON f.connection_id = c.id AND NOT "
            is_before_creation!("f.found_at")
        )
    };
}

pub(super) use {
    facts_of_connection, is_before_creation, is_before_start, is_of_its_run,
    is_of_its_run_and_connection, latest_report_of_connection,
};

/// Marks what belongs to an earlier run than the one that is queued and, in PostgreSQL, locked.
pub(super) async fn set_aside(tx: &mut dyn SqlConnection, run: RunId) -> Result<(), StoreError> {
    if SET_ASIDE.bind(run.0).execute(tx).await? > 0 {
        FORGET_WAIT.bind(run.0).execute(tx).await?;
    }
    Ok(())
}
