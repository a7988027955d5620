//! `running` → `completed`, in one transaction with everything that was found.
//!
//! A single statement with `EXISTS (SELECT … WHERE token = …)` is not enough: under READ COMMITTED
//! a statement that waited tests the locked row anew, but its subquery keeps the snapshot from
//! before the wait. So the run is locked by a statement of its own, and the token is tested on the
//! attempt's row by the statement that ends it.

use super::{PostgresStore, commit, rollback, run_type};
use crate::domain::completion::Completion;
use crate::ports::store::{Claim, StoreError};
use crate::store::completion::{context_patch, failure_summary};
use crate::store::error::from_sqlx;
use serde_json::Value;

const COMPLETE: &str = concat!(
    "WITH ended AS ( \
        UPDATE verifyd.run_attempts SET ended_at = clock_timestamp(), end_reason = 'completed' \
        WHERE run_id = $1 AND attempt = $2 AND token = $3 AND ended_at IS NULL RETURNING run_id \
    ) \
    UPDATE operation_runs r \
    SET status = 'completed', outcome = $4, completed_at = now(), failure_summary = $6, \
        context = CASE WHEN jsonb_typeof(r.context) = 'object' THEN r.context ELSE '{}' END || $5 \
    FROM ended \
    WHERE r.id = ended.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running'"
);

const FORGET_DELIVERY: &str = "DELETE FROM verifyd.run_deliveries WHERE run_id = $1";

/// Never moves back to a run that was completed earlier.
const LATEST_REPORT: &str = "\
    INSERT INTO verifyd.latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at) \
    VALUES ($1, $2, $3, $4, $5, now()) \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id)";

impl PostgresStore {
    pub(super) async fn complete_run(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let run = claim.run.id;
        let patch = Value::Object(context_patch(completion)?);
        let failures = failure_summary(completion)?;
        let mut tx = self.begin().await?;
        if !self.lock_running(&mut tx, run).await? {
            rollback(tx).await?;
            return Ok(false);
        }
        let completed = self
            .sql(COMPLETE)
            .bind(run.0)
            .bind(claim.attempt)
            .bind(claim.token)
            .bind(completion.outcome.as_str())
            .bind(patch)
            .bind(failures)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?
            .rows_affected();
        if completed == 0 {
            rollback(tx).await?;
            return Ok(false);
        }
        self.sql(FORGET_DELIVERY)
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        if let Some(refresh) = &completion.inventory {
            self.refresh_inventory(&mut tx, run, refresh).await?;
        }
        if let Some(connection) = completion.connection {
            self.sql(LATEST_REPORT)
                .bind(connection.0)
                .bind(run.0)
                .bind(&completion.fingerprint)
                .bind(&completion.overall)
                .bind(completion.outcome.as_str())
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        }
        commit(tx).await?;
        Ok(true)
    }
}
