//! `running` → `completed`, in one transaction with everything that was found.
//!
//! A single statement with `EXISTS (SELECT … WHERE token = …)` is not enough: under READ COMMITTED
//! a statement that waited tests the locked row anew, but its subquery keeps the snapshot from
//! before the wait. So the run is locked by a statement of its own, and the token is tested on the
//! attempt's row by the statement that ends it.

use super::bounds::MERGED_BYTES;
use super::earlier::FirstReport;
use super::together::CompletionRequest;
use super::{InTx, PostgresStore, Tx, commit, rollback, run_type};
use crate::domain::completion::Completion;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store::{Claim, ContextSize, StoreError};
use crate::store::completion::{
    InventoryRow, NOTHING_KEPT, context_defaults, context_patch, event, failure_summary,
    kept_bytes, message_id, notice,
};
use crate::store::error::from_sqlx;
use crate::store::together::together;
use chrono::{DateTime, Utc};

/// What the run's context becomes. What a producer wrote stays: members that verifyd does not write as
/// they are, and what is no object as the member `producer_context`.
macro_rules! completed_context {
    ($defaults:literal, $patch:literal) => {
        concat!(
            "(",
            $defaults,
            " - 'target_scope') || (CASE coalesce(jsonb_typeof(r.context), 'null') WHEN 'object' THEN r.context || \
                      CASE WHEN jsonb_typeof(r.context -> 'target_scope') = 'object' \
                                AND jsonb_typeof(",
            $defaults,
            " -> 'target_scope') = 'object' \
                      THEN jsonb_build_object('target_scope', (",
            $defaults,
            " -> 'target_scope') || (r.context -> 'target_scope')) ELSE '{}' END \
                  WHEN 'null' THEN '{}' \
                  ELSE jsonb_build_object('producer_context', r.context) END) || ",
            $patch
        )
    };
}
pub(super) use completed_context;

/// `$8`: a context of more bytes is replaced.
const COMPLETE: &str = concat!(
    "WITH ended AS ( \
        UPDATE verifyd.run_attempts SET ended_at = clock_timestamp(), end_reason = 'completed' \
        WHERE run_id = $1 AND attempt = $2 AND token = $3 AND ended_at IS NULL RETURNING run_id \
    ) \
    UPDATE operation_runs r \
    SET status = 'completed', outcome = $4, completed_at = now(), failure_summary = $6, \
        context = CASE WHEN pg_column_size(r.context) > $8 \
            THEN ($7::jsonb - 'target_scope') || '{\"producer_context_dropped\": true}' || $5::jsonb ELSE ",
    completed_context!("$7::jsonb", "$5::jsonb"),
    " END FROM ended \
    WHERE r.id = ended.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running' \
     RETURNING now(), EXISTS (SELECT FROM verifyd.webhook_endpoints e \
                              WHERE e.workspace_id = r.workspace_id AND e.enabled)"
);

const FORGET_DELIVERY: &str = "DELETE FROM verifyd.run_deliveries WHERE run_id = $1";

/// Never moves back to a run that was completed earlier. What the report is compared with, and
/// whether acknowledgements may have to be ended, is told by the row as it is when it is locked,
/// whoever else completes a run of this connection meanwhile. No row: a run that was completed later
/// came first.
const LATEST_REPORT: &str = "\
    INSERT INTO verifyd.latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed) \
    VALUES ($1, $2, $3, $4, $5, now(), true) \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id) \
    RETURNING l.changed, l.acknowledged";

/// For a report that came too late to be the latest.
const DIFFERS: &str =
    "SELECT fingerprint <> $2 FROM verifyd.latest_reports WHERE connection_id = $1";

const OUTBOX: &str = "\
    INSERT INTO verifyd.webhook_deliveries (endpoint_id, message_id, operation_run_id, payload) \
    SELECT e.id, $2, $3, $4 FROM verifyd.webhook_endpoints e \
    WHERE e.workspace_id = $1 AND e.enabled AND (NOT e.changed_only OR $5)";

impl PostgresStore {
    pub(super) async fn complete_run(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        if claim.context == ContextSize::Small {
            let request = CompletionRequest::new(claim, completion)?;
            if together(self, request).await.is_some() {
                return Ok(true);
            }
        }
        // As in `claim_run`.
        Box::pin(self.complete_by_itself(claim, completion)).await
    }

    /// A context that the server refuses to copy does not keep the run from its end.
    async fn complete_by_itself(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let _one_at_a_time = match claim.context {
            ContextSize::Large => Some(self.large_contexts.lock().await),
            _ => None,
        };
        let kept = kept_bytes(claim.context, MERGED_BYTES);
        match self.complete_alone(claim, completion, kept).await {
            Err(StoreError::Refused(why)) if kept != NOTHING_KEPT => {
                tracing::warn!(%why, "the context of the run cannot be kept");
                let dropped = self.complete_alone(claim, completion, NOTHING_KEPT).await;
                // What is refused for another reason is told with that.
                dropped.map_err(|_| StoreError::Refused(why))
            }
            completed => completed,
        }
    }

    async fn complete_alone(
        &self,
        claim: &Claim,
        completion: &Completion,
        kept: i64,
    ) -> Result<bool, StoreError> {
        let run = claim.run.id;
        let patch = context_patch(completion)?;
        let failures = failure_summary(completion)?;
        let inventory = completion
            .inventory
            .as_ref()
            .map(|refresh| InventoryRow::new(run, refresh));
        let mut tx = self.begin().await?;
        if !self.lock_running(&mut tx, run).await? {
            rollback(tx).await?;
            return Ok(false);
        }
        let completed: Option<(DateTime<Utc>, bool)> = self
            .rows(COMPLETE)
            .bind(run.0)
            .bind(claim.attempt)
            .bind(claim.token)
            .bind(completion.outcome.as_str())
            .bind(patch)
            .bind(failures)
            .bind(context_defaults(completion)?)
            .bind(kept)
            .fetch_optional(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let Some((completed_at, has_webhooks)) = completed else {
            rollback(tx).await?;
            return Ok(false);
        };
        self.sql(FORGET_DELIVERY)
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        self.refresh_inventories(&mut tx, inventory.as_slice())
            .await?;
        let first = FirstReport::of(claim, completion.connection);
        self.forget_latest_reports(&mut tx, first.as_slice())
            .await?;
        let changed = self.write_latest(&mut tx, run, completion).await?;
        let notice = notice(claim, completion, changed);
        if has_webhooks {
            self.put_into_outbox(&mut tx, &notice, completed_at).await?;
        }
        commit(tx).await?;
        // Fails when nobody wants to know.
        let _ = self.completions.send(notice);
        if has_webhooks {
            self.recorded.notify_one();
        }
        Ok(true)
    }

    /// Ends acknowledgements that do not stand any more, and says whether the fingerprint differs from
    /// that of the connection's report before.
    async fn write_latest(
        &self,
        tx: &mut Tx,
        run: RunId,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let Some(connection) = completion.connection else {
            return Ok(true);
        };
        let written: Option<(bool, bool)> = self
            .rows(LATEST_REPORT)
            .bind(connection.0)
            .bind(run.0)
            .bind(&completion.fingerprint)
            .bind(&completion.overall)
            .bind(completion.outcome.as_str())
            .fetch_optional(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        if written.is_none_or(|(_, acknowledged)| acknowledged) {
            self.lapse_acknowledgements(tx, connection, run).await?;
        }
        if let Some((changed, _)) = written {
            return Ok(changed);
        }
        self.differs_from_latest(tx, connection, &completion.fingerprint)
            .await
    }

    pub(super) async fn differs_from_latest(
        &self,
        tx: &mut InTx<'_>,
        connection: ConnectionId,
        fingerprint: &str,
    ) -> Result<bool, StoreError> {
        self.scalar(DIFFERS)
            .bind(connection.0)
            .bind(fingerprint)
            .fetch_one(&mut **tx)
            .await
            .map_err(from_sqlx)
    }

    pub(super) async fn put_into_outbox(
        &self,
        tx: &mut InTx<'_>,
        notice: &CompletionEvent,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.sql(OUTBOX)
            .bind(notice.workspace_id.map(|w| w.0))
            .bind(message_id())
            .bind(notice.operation_run_id.0)
            .bind(event(notice, at)?)
            .bind(notice.changed)
            .execute(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        Ok(())
    }
}
