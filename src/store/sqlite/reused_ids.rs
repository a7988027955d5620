//! Excludes data of an earlier run with the same id, as in PostgreSQL.

use super::{SqliteStore, json_list, now, run_type};
use crate::domain::{ConnectionId, RunId};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use sqlx::SqliteConnection;

/// A time that another writer may have written in another form; NULL where it is none.
macro_rules! time {
    ($column:expr) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', ", $column, ")")
    };
}
pub(super) use time;

/// A time plus one second, the tolerance between clocks and for rounding.
macro_rules! a_second_after {
    ($column:expr) => {
        concat!(
            "strftime('%Y-%m-%dT%H:%M:%fZ', ",
            $column,
            ", '+1 seconds')"
        )
    };
}
pub(super) use a_second_after;

/// Whether the ended attempt `a` belongs to an earlier run than `r`, as far as the other attempts are not
/// needed to decide: `r` was never claimed, or its first claim was later.
macro_rules! is_before_start {
    () => {
        $crate::store::sql::sql!(
            "(r.started_at IS NULL OR " $crate::store::sqlite::reused_ids::a_second_after!("a.claimed_at")
            " < " $crate::store::sqlite::reused_ids::time!("r.started_at") " AND "
            $crate::store::sqlite::reused_ids::time!("r.started_at") " <= " $crate::store::sqlite::now!()
            ")"
        )
    };
}
pub(super) use is_before_start;

/// Whether the attempt `a` belongs to an earlier run than `r`, which is not completed. An undecidable open
/// one is regarded as an attempt of `r`.
macro_rules! is_earlier {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN a.ended_at IS NULL THEN r.started_at IS NULL AND "
            a_second_after!("a.claimed_at") " < " time!("r.created_at") " AND " time!("r.created_at")
            " <= " now!() " ELSE " is_before_start!()
            " OR a.attempt <= coalesce((SELECT max(c.attempt) FROM verifyd_run_attempts c
                 WHERE c.run_id = a.run_id AND c.end_reason = 'completed'), 0) END"
        )
    };
}

const SET_ASIDE: &str = sql!(
    "UPDATE verifyd_run_attempts SET earlier = 1, ended_at = coalesce(ended_at, " now!()
    "), end_reason = coalesce(end_reason, 'superseded')
     WHERE run_id = $1 AND NOT earlier AND attempt IN (
        SELECT a.attempt FROM verifyd_run_attempts a JOIN operation_runs r ON r.id = a.run_id
        WHERE a.run_id = $1 AND r.type = " run_type!() " AND (" is_earlier!() "))"
);

/// Without an attempt of its own a run waits for nothing.
const FORGET_WAIT: &str = "
    UPDATE verifyd_run_deliveries SET not_before = NULL WHERE run_id = $1 AND not_before IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM verifyd_run_attempts a WHERE a.run_id = $1 AND NOT a.earlier)";

/// The attempts of the present run.
pub(super) const OWN_ATTEMPTS: &str = sql!(
    "SELECT a.run_id, a.attempt, a.worker_id, a.counted, a.claimed_at, a.ended_at, a.end_reason
     FROM verifyd_run_attempts a JOIN operation_runs r ON r.id = a.run_id AND r.type = " run_type!()
    " WHERE a.run_id = $1 AND NOT a.earlier AND NOT CASE WHEN r.status = 'completed'
          AND a.ended_at IS NOT NULL THEN " is_before_start!() " ELSE " is_earlier!()
    " END ORDER BY a.attempt"
);

/// Whether the time `p` lies within a second of the time of verifyd's own.
macro_rules! is_about {
    ($theirs:expr, $own:expr) => {
        concat!(
            "abs(julianday(",
            $theirs,
            ") - julianday(",
            $own,
            ")) <= 1.0 / 86400.0"
        )
    };
}
pub(super) use is_about;

/// Whether `l`, a row of `latest_reports`, is of an existing run: completed at that time, and of this
/// workspace and tenant.
macro_rules! is_of_its_run {
    ($workspace:literal, $tenant:literal, $more:expr) => {
        concat!(
            "EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = l.operation_run_id AND p.type = ",
            $crate::store::sqlite::run_type!(),
            " AND p.status = 'completed' AND p.workspace_id = ",
            $workspace,
            " AND p.tenant_id = ",
            $tenant,
            " AND ",
            $crate::store::sqlite::reused_ids::is_about!("p.completed_at", "l.completed_at"),
            $more,
            ")"
        )
    };
}
pub(super) use is_of_its_run;

/// `JOIN verifyd_latest_reports l` of the connection `c`: a report of another tenant, or of an earlier run
/// of the same id, is as good as none.
macro_rules! latest_report_of_connection {
    ($more:expr) => {
        concat!(
            "verifyd_latest_reports l ON l.connection_id = c.id AND ",
            $crate::store::sqlite::reused_ids::is_of_its_run!(
                "c.workspace_id",
                "c.tenant_id",
                $more
            )
        )
    };
}
pub(super) use latest_report_of_connection;

/// And the run is of this connection and carries this fingerprint.
macro_rules! carries_fingerprint {
    () => {
        " AND CAST(p.context ->> 'provider_connection_id' AS TEXT) = CAST(l.connection_id AS TEXT)
          AND p.context ->> '$.verification_report.fingerprint' = l.fingerprint"
    };
}
pub(super) use carries_fingerprint;

/// Deletes rows that earlier runs left. `$1`: connections and the runs that are completed now. Rows written
/// later are not left over.
const FORGET_LATEST_REPORTS: &str = sql!(
    "DELETE FROM verifyd_latest_reports AS l
     WHERE connection_id IN (SELECT value ->> 0 FROM json_each($1)) AND completed_at <= " now!()
    " AND NOT EXISTS (
        SELECT 1 FROM json_each($1) d JOIN operation_runs r ON r.id = d.value ->> 1
        WHERE d.value ->> 0 = l.connection_id AND l.operation_run_id <> r.id AND "
    is_of_its_run!("r.workspace_id", "r.tenant_id", carries_fingerprint!()) ")"
);

/// Whether `d`, the delivery of the queued run `w`, is an earlier run's.
macro_rules! is_delivery_of_earlier {
    () => {
        $crate::store::sql::sql!(
            "w.started_at IS NULL AND (coalesce(d.not_before, '') > " $crate::store::sqlite::now!()
            " OR coalesce(" $crate::store::sqlite::reused_ids::a_second_after!("d.delivered_at") " < "
            $crate::store::sqlite::reused_ids::time!("w.created_at") " AND "
            $crate::store::sqlite::reused_ids::time!("w.created_at") " <= " $crate::store::sqlite::now!()
            ", 0))"
        )
    };
}
pub(super) use is_delivery_of_earlier;

impl SqliteStore {
    /// Marks what belongs to an earlier run than the one that is queued.
    pub(super) async fn set_aside(
        &self,
        tx: &mut SqliteConnection,
        run: RunId,
    ) -> Result<(), StoreError> {
        let set_aside = sqlx::query(SET_ASIDE).bind(run.0).execute(&mut *tx).await?;
        if set_aside.rows_affected() > 0 {
            sqlx::query(FORGET_WAIT)
                .bind(run.0)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }

    /// See [`FORGET_LATEST_REPORTS`].
    pub(super) async fn forget_latest_reports(
        &self,
        tx: &mut SqliteConnection,
        completed: impl Iterator<Item = (ConnectionId, RunId)>,
    ) -> Result<(), StoreError> {
        sqlx::query(FORGET_LATEST_REPORTS)
            .bind(json_list(completed.map(|(c, r)| (c.0, r.0)))?)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }
}
