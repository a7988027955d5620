//! `running` → `completed`, in one transaction with everything that was found.

use super::acknowledgements::lapse_acknowledgements;
use super::{SqliteStore, Tx, commit, now, rollback, run_type};
use crate::domain::RunId;
use crate::domain::completion::Completion;
use crate::ports::store::{AttemptEnd, Claim, StoreError};
use crate::store::completion::{context_members, event, failure_summary, message_id, notice};
use crate::store::error::from_sqlx;
use chrono::{DateTime, Utc};

/// Sets up to three members of `context`; the others stay as they are written.
const COMPLETE: &str = concat!(
    "UPDATE operation_runs SET status = 'completed', outcome = $2, completed_at = ",
    now!(),
    ", failure_summary = $3, context = json_set( \
        CASE WHEN json_type(context) = 'object' THEN context ELSE '{}' END, \
        $4, json($5), $6, json($7), $8, json($9)) \
     WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'running' RETURNING completed_at, completed_at, EXISTS ( \
        SELECT 1 FROM verifyd_webhook_endpoints e \
        WHERE e.workspace_id = operation_runs.workspace_id AND e.enabled)"
);

/// How many members COMPLETE has room for.
const MEMBERS: usize = 3;

const FORGET_DELIVERY: &str = "DELETE FROM verifyd_run_deliveries WHERE run_id = $1";

/// Never moves back to a run that was completed earlier. Says whether acknowledgements may have to
/// be ended; no row: a run that was completed later came first.
const LATEST_REPORT: &str = "\
    INSERT INTO verifyd_latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed) \
    VALUES ($1, $2, $3, $4, $5, $6, 1) \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id) \
    RETURNING changed, acknowledged";

/// For a report that came too late to be the latest.
const DIFFERS: &str =
    "SELECT fingerprint <> $2 FROM verifyd_latest_reports WHERE connection_id = $1";

const OUTBOX: &str = "\
    INSERT INTO verifyd_webhook_deliveries (endpoint_id, message_id, operation_run_id, payload) \
    SELECT e.id, $2, $3, $4 FROM verifyd_webhook_endpoints e \
    WHERE e.workspace_id = $1 AND e.enabled AND (NOT e.changed_only OR $5)";

impl SqliteStore {
    pub(super) async fn complete_run(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let run = claim.run.id;
        let members = context_members(completion)?;
        let mut tx = self.begin().await?;
        if !self
            .end_attempt(&mut tx, claim, AttemptEnd::Completed)
            .await?
        {
            rollback(tx).await?;
            return Ok(false);
        }
        let mut update = sqlx::query_as(COMPLETE)
            .bind(run.0)
            .bind(completion.outcome.as_str())
            .bind(failure_summary(completion)?);
        // A member that is set twice to the same value fills a place that is not needed.
        debug_assert!(members.len() <= MEMBERS);
        for (member, value) in members.iter().cycle().take(MEMBERS) {
            update = update.bind(format!("$.{member}")).bind(value);
        }
        let completed: Option<(String, DateTime<Utc>, bool)> =
            update.fetch_optional(&mut *tx).await.map_err(from_sqlx)?;
        let Some((completed_at, at, has_webhooks)) = completed else {
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
        let changed = write_latest(&mut tx, run, completion, &completed_at).await?;
        let notice = notice(claim, completion, changed);
        if has_webhooks {
            sqlx::query(OUTBOX)
                .bind(claim.run.workspace_id.map(|w| w.0))
                .bind(message_id())
                .bind(run.0)
                .bind(event(&notice, at)?)
                .bind(changed)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        }
        commit(tx).await?;
        // Fails when nobody wants to know.
        let _ = self.completions.send(notice);
        if has_webhooks {
            self.recorded.notify_one();
        }
        Ok(true)
    }
}

/// Ends acknowledgements that do not stand any more, and says whether the fingerprint differs from
/// that of the connection's report before.
async fn write_latest(
    tx: &mut Tx,
    run: RunId,
    completion: &Completion,
    completed_at: &str,
) -> Result<bool, StoreError> {
    let Some(connection) = completion.connection else {
        return Ok(true);
    };
    let written: Option<(bool, bool)> = sqlx::query_as(LATEST_REPORT)
        .bind(connection.0)
        .bind(run.0)
        .bind(&completion.fingerprint)
        .bind(&completion.overall)
        .bind(completion.outcome.as_str())
        .bind(completed_at)
        .fetch_optional(&mut **tx)
        .await
        .map_err(from_sqlx)?;
    if written.is_none_or(|(_, acknowledged)| acknowledged) {
        lapse_acknowledgements(tx, connection, run, completed_at, &completion.report).await?;
    }
    if let Some((changed, _)) = written {
        return Ok(changed);
    }
    sqlx::query_scalar(DIFFERS)
        .bind(connection.0)
        .bind(&completion.fingerprint)
        .fetch_one(&mut **tx)
        .await
        .map_err(from_sqlx)
}
