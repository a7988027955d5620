//! Excludes data of an earlier run with the same id.
//!
//! `operation_runs` may belong to another application, so nothing in it distinguishes one run of an id from
//! the next. A claim sets `started_at` with the first attempt: a queued run without it was never claimed, so
//! ended attempts belong to an earlier run. So do those up to one that completed the run, while the run is
//! not completed. The first claim marks them (`run_attempts.earlier`).

use super::{PostgresStore, run_type};
use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use crate::store::completion::CompletionRequest;
use crate::store::sql::sql;
use sqlx::PgConnection;

/// Tolerance between clocks of one server, and for applications that round times to seconds.
macro_rules! slack {
    () => {
        "interval '1 second'"
    };
}
pub(super) use slack;

/// Whether the ended attempt `a` belongs to an earlier run than `r`, as far as the other attempts are not
/// needed to decide: `r` was never claimed, or its first claim was later.
macro_rules! is_before_start {
    ($a:literal, $r:literal) => {
        $crate::store::sql::sql!(
            "(" $r ".started_at IS NULL OR " $a ".claimed_at + "
            $crate::store::postgres::reused_ids::slack!() " < " $r ".started_at::timestamptz AND " $r
            ".started_at::timestamptz <= now())"
        )
    };
}
pub(super) use is_before_start;

/// Whether the open attempt `a` belongs to an earlier run than `r`: one that was recorded after the attempt
/// had begun. An undecidable one is regarded as an attempt of `r`.
macro_rules! is_open_before_recorded {
    () => {
        $crate::store::sql::sql!(
            "r.started_at IS NULL AND a.claimed_at + " $crate::store::postgres::reused_ids::slack!()
            " < r.created_at::timestamptz AND r.created_at::timestamptz <= now()"
        )
    };
}

/// Whether the attempt `a` belongs to an earlier run than `r`, which is not completed.
macro_rules! is_earlier {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN a.ended_at IS NULL THEN " is_open_before_recorded!() " ELSE "
            is_before_start!("a", "r")
            " OR a.attempt <= coalesce((SELECT max(c.attempt) FROM verifyd.run_attempts c
                 WHERE c.run_id = a.run_id AND c.end_reason = 'completed'), 0) END"
        )
    };
}

/// Begins after the run was locked, so it sees the attempts as they are.
const SET_ASIDE: &str = sql!(
    "UPDATE verifyd.run_attempts a SET earlier = true,
         ended_at = coalesce(a.ended_at, clock_timestamp()),
         end_reason = coalesce(a.end_reason, 'superseded')
     FROM operation_runs r WHERE a.run_id = $1 AND NOT a.earlier AND r.id = a.run_id AND r.type = "
    run_type!() " AND (" is_earlier!() ")"
);

/// Without an attempt of its own a run waits for nothing.
const FORGET_WAIT: &str = "
    UPDATE verifyd.run_deliveries SET not_before = NULL WHERE run_id = $1 AND not_before IS NOT NULL
    AND NOT EXISTS (SELECT FROM verifyd.run_attempts a WHERE a.run_id = $1 AND NOT a.earlier)";

/// The attempts of the present run.
pub(super) const OWN_ATTEMPTS: &str = sql!(
    "SELECT a.run_id, a.attempt, a.worker_id, a.counted, a.claimed_at, a.ended_at, a.end_reason
     FROM verifyd.run_attempts a JOIN operation_runs r ON r.id = a.run_id AND r.type = " run_type!()
    " WHERE a.run_id = $1 AND NOT a.earlier AND NOT CASE WHEN r.status = 'completed'
          AND a.ended_at IS NOT NULL THEN " is_before_start!("a", "r") " ELSE " is_earlier!()
    " END ORDER BY a.attempt"
);

/// Whether `l`, a row of `latest_reports`, is of an existing run: completed at that time, and of this
/// workspace and tenant.
macro_rules! is_of_its_run {
    ($workspace:literal, $tenant:literal, $more:expr) => {
        concat!(
            "EXISTS (SELECT FROM operation_runs p WHERE p.id = l.operation_run_id AND p.type = ",
            $crate::store::postgres::run_type!(),
            " AND p.status = 'completed' AND p.workspace_id = ",
            $workspace,
            " AND p.tenant_id = ",
            $tenant,
            " AND p.completed_at::timestamptz BETWEEN l.completed_at - ",
            $crate::store::postgres::reused_ids::slack!(),
            " AND l.completed_at + ",
            $crate::store::postgres::reused_ids::slack!(),
            $more,
            ")"
        )
    };
}
pub(super) use is_of_its_run;

/// `JOIN verifyd.latest_reports l` of the connection `c`: a report of another tenant, or of an earlier run
/// of the same id, is as good as none.
macro_rules! latest_report_of_connection {
    ($more:expr) => {
        concat!(
            "verifyd.latest_reports l ON l.connection_id = c.id AND ",
            $crate::store::postgres::reused_ids::is_of_its_run!(
                "c.workspace_id",
                "c.tenant_id",
                $more
            )
        )
    };
}
pub(super) use latest_report_of_connection;

/// And the run is of this connection and has this fingerprint. Contexts of excessive size are not read.
macro_rules! carries_fingerprint {
    () => {
        " AND CASE WHEN pg_column_size(p.context) <= 262144 THEN
              p.context ->> 'provider_connection_id' = l.connection_id::text
              AND p.context #>> '{verification_report,fingerprint}' = l.fingerprint END"
    };
}
pub(super) use carries_fingerprint;

/// Deletes rows that earlier runs left, of connections whose report was not compared. `$1`: connections,
/// `$2`: the runs that are completed now, `$3`: the start of their processing; rows written later are not
/// left over.
const FORGET_LATEST_REPORTS: &str = sql!(
    "DELETE FROM verifyd.latest_reports l
     USING unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (connection, run, since),
           operation_runs r
     WHERE l.connection_id = d.connection AND r.id = d.run AND l.completed_at < d.since AND NOT ("
    "l.operation_run_id <> r.id AND "
    is_of_its_run!("r.workspace_id", "r.tenant_id", carries_fingerprint!()) ")"
);

/// Whether `d`, the delivery of the queued run `w`, is an earlier run's: no run waits before its first claim,
/// and no hint is sent before the run is recorded. A recording time in the future is an error of a clock.
macro_rules! is_delivery_of_earlier {
    () => {
        $crate::store::sql::sql!(
            "w.started_at IS NULL AND (d.not_before > now() OR d.delivered_at + "
            $crate::store::postgres::reused_ids::slack!()
            " < w.created_at::timestamptz AND w.created_at::timestamptz <= now())"
        )
    };
}
pub(super) use is_delivery_of_earlier;

impl PostgresStore {
    /// Marks what belongs to an earlier run than the one that is locked and queued.
    pub(super) async fn set_aside(
        &self,
        tx: &mut PgConnection,
        run: RunId,
    ) -> Result<(), StoreError> {
        let set_aside = self.sql(SET_ASIDE).bind(run.0).execute(&mut *tx).await?;
        if set_aside.rows_affected() > 0 {
            self.sql(FORGET_WAIT).bind(run.0).execute(&mut *tx).await?;
        }
        Ok(())
    }

    /// See [`FORGET_LATEST_REPORTS`]. Nothing to do for a check that has found a previous report.
    pub(super) async fn forget_latest_reports(
        &self,
        tx: &mut PgConnection,
        reports: &[(i64, &CompletionRequest)],
    ) -> Result<(), StoreError> {
        let first = || reports.iter().filter(|(_, call)| !call.has_previous);
        if first().next().is_some() {
            self.sql(FORGET_LATEST_REPORTS)
                .bind(
                    first()
                        .map(|(connection, _)| *connection)
                        .collect::<Vec<i64>>(),
                )
                .bind(first().map(|(_, call)| call.run.0).collect::<Vec<i64>>())
                .bind(first().map(|(_, call)| call.claimed_at).collect::<Vec<_>>())
                .execute(tx)
                .await?;
        }
        Ok(())
    }
}
