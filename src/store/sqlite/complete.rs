//! `running` → `completed`, in one transaction with everything that was found.

use super::{SqliteStore, commit, now, rollback, run_type};
use crate::domain::completion::Completion;
use crate::ports::store::{AttemptEnd, Claim, StoreError};
use crate::store::completion::{context_patch, failure_summary};
use crate::store::error::from_sqlx;

/// Sets up to three members of `context`; the others stay as they are written.
const COMPLETE: &str = concat!(
    "UPDATE operation_runs SET status = 'completed', outcome = $2, completed_at = ",
    now!(),
    ", failure_summary = $3, context = json_set( \
        CASE WHEN json_type(context) = 'object' THEN context ELSE '{}' END, \
        $4, json($5), $6, json($7), $8, json($9)) \
     WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'running' RETURNING completed_at"
);

/// How many members COMPLETE has room for.
const MEMBERS: usize = 3;

const FORGET_DELIVERY: &str = "DELETE FROM verifyd_run_deliveries WHERE run_id = $1";

/// Never moves back to a run that was completed earlier.
const LATEST_REPORT: &str = "\
    INSERT INTO verifyd_latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at) \
    VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id)";

impl SqliteStore {
    pub(super) async fn complete_run(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let run = claim.run.id;
        let patch = context_patch(completion)?;
        let mut tx = self.begin().await?;
        if !self
            .end_attempt(&mut tx, claim, AttemptEnd::Completed)
            .await?
        {
            rollback(tx).await?;
            return Ok(false);
        }
        let mut update = sqlx::query_scalar(COMPLETE)
            .bind(run.0)
            .bind(completion.outcome.as_str())
            .bind(failure_summary(completion)?);
        // A member that is set twice to the same value fills a place that is not needed.
        debug_assert!(patch.len() <= MEMBERS);
        for (member, value) in patch.iter().cycle().take(MEMBERS) {
            update = update.bind(format!("$.{member}")).bind(value);
        }
        let completed_at: Option<String> =
            update.fetch_optional(&mut *tx).await.map_err(from_sqlx)?;
        let Some(completed_at) = completed_at else {
            rollback(tx).await?;
            return Ok(false);
        };
        sqlx::query(FORGET_DELIVERY)
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        if let Some(refresh) = &completion.inventory {
            self.refresh_inventory(&mut tx, run, refresh, &completed_at)
                .await?;
        }
        if let Some(connection) = completion.connection {
            sqlx::query(LATEST_REPORT)
                .bind(connection.0)
                .bind(run.0)
                .bind(&completion.fingerprint)
                .bind(&completion.overall)
                .bind(completion.outcome.as_str())
                .bind(&completed_at)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        }
        commit(tx).await?;
        Ok(true)
    }
}
