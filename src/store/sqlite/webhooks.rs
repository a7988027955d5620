//! Endpoints of webhooks and the deliveries to them. `complete` writes the deliveries, `outbox` has
//! what becomes of them.

use super::{SqliteStore, commit, later, now, now_moved_by, rollback};
use crate::domain::webhook::{DisabledReason, WebhookBinding};
use crate::domain::{DeliveryId, EndpointId, WorkspaceId};
use crate::ports::store::StoreError;
use crate::ports::webhooks::{
    AttemptOutcome, AttemptRecorded, Delivery, DeliveryAttempt, DeliveryCounts, DeliveryFilter,
    Endpoint, EndpointError, LeasePolicy, LeasedDelivery, NewEndpoint, Replay, SealSecret,
    SealedSecrets, WebhookStore,
};
use crate::store::rows;
use crate::store::webhook_rows::{DeliveryAttemptRow, DeliveryRow, EndpointRow, SecretsRow};
use async_trait::async_trait;
use chrono::SecondsFormat;
use std::time::Duration;

/// The columns of an `EndpointRow`. A previous secret that is over is none.
macro_rules! endpoint_columns {
    () => {
        concat!(
            "id, workspace_id, url, description, changed_only, enabled, disabled_reason, \
             failures, created_at, CASE WHEN previous_secret_until > ",
            now!(),
            " THEN previous_secret_until END AS previous_secret_until, \
             circuit_opened_at, circuit_probe_at, coalesce(circuit_probe_at <= ",
            now!(),
            ", 0) AS circuit_may_probe, \
             (SELECT min(d.pending_since) FROM verifyd_webhook_deliveries d \
              WHERE d.endpoint_id = verifyd_webhook_endpoints.id AND d.state = 'pending') \
                 AS oldest_pending_since"
        )
    };
}

const ADD: &str = "\
    INSERT INTO verifyd_webhook_endpoints (workspace_id, url, description, changed_only, secret) \
    VALUES ($1, $2, $3, $4, '') RETURNING id";

const SET_SECRET: &str = concat!(
    "UPDATE verifyd_webhook_endpoints SET secret = $2 WHERE id = $1 RETURNING ",
    endpoint_columns!()
);

const ENDPOINTS: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM verifyd_webhook_endpoints WHERE $1 IS NULL OR workspace_id = $1 ORDER BY id"
);

const PLACE: &str = "SELECT workspace_id, url FROM verifyd_webhook_endpoints WHERE id = $1";

/// `$3`: until when the previous secret is used, moved from now; null: not at all.
const ROTATE: &str = concat!(
    "UPDATE verifyd_webhook_endpoints SET secret = $2, \
        previous_secret = CASE WHEN $3 IS NOT NULL THEN secret END, \
        previous_secret_until = CASE WHEN $3 IS NOT NULL THEN ",
    now_moved_by!("$3"),
    " END WHERE id = $1 RETURNING ",
    endpoint_columns!()
);

const SET_ENABLED: &str = "\
    UPDATE verifyd_webhook_endpoints \
    SET enabled = $2 IS NULL, disabled_reason = $2, failures = 0, circuit_pauses = 0, \
        circuit_opened_at = NULL, circuit_probe_at = NULL WHERE id = $1";

const PENDING_NOW: &str = concat!(
    "UPDATE verifyd_webhook_deliveries SET next_attempt_at = ",
    now!(),
    " WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > ",
    now!()
);

const REMOVE: &str = "DELETE FROM verifyd_webhook_endpoints WHERE id = $1";
const REMOVE_DELIVERIES: &str = "DELETE FROM verifyd_webhook_deliveries WHERE endpoint_id = $1";

const SECRETS: &str = "\
    SELECT id AS endpoint_id, workspace_id, url, secret, previous_secret \
    FROM verifyd_webhook_endpoints ORDER BY id";

const RESEAL: &str = "\
    UPDATE verifyd_webhook_endpoints SET secret = $4, previous_secret = $5 \
    WHERE id = $1 AND secret = $2 AND previous_secret IS $3";

const DELIVERIES: &str = "\
    SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state, d.attempts, \
           d.next_attempt_at, d.created_at, d.ended_at, d.give_up_reason, a.result, a.http_status \
    FROM verifyd_webhook_deliveries d LEFT JOIN verifyd_webhook_attempts a \
        ON a.delivery_id = d.id AND a.attempt = d.attempts \
    WHERE ($1 IS NULL OR d.endpoint_id = $1) AND ($2 IS NULL OR d.state = $2) \
      AND ($3 IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4";

const ATTEMPTS: &str = "\
    SELECT delivery_id, attempt, started_at, duration_ms, result, http_status \
    FROM verifyd_webhook_attempts WHERE delivery_id = $1 ORDER BY attempt";

const REPLAY_ONE: &str = concat!(
    "UPDATE verifyd_webhook_deliveries \
     SET state = 'pending', ended_at = NULL, tries = 0, give_up_reason = NULL, \
         next_attempt_at = ",
    now!(),
    ", pending_since = ",
    now!(),
    " WHERE id = $1 AND state <> 'pending'"
);

const REPLAY_SINCE: &str = concat!(
    "UPDATE verifyd_webhook_deliveries \
     SET state = 'pending', ended_at = NULL, tries = 0, give_up_reason = NULL, \
         next_attempt_at = ",
    now!(),
    ", pending_since = ",
    now!(),
    " WHERE endpoint_id = $1 AND created_at >= $2 \
      AND (state = 'failed' OR $3 AND state = 'delivered')"
);

#[async_trait]
impl WebhookStore for SqliteStore {
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
    ) -> Result<Endpoint, EndpointError> {
        let mut tx = self.begin().await?;
        let id: i64 = sqlx::query_scalar(ADD)
            .bind(new.workspace_id.0)
            .bind(&new.url)
            .bind(&new.description)
            .bind(new.changed_only)
            .fetch_one(&mut *tx)
            .await?;
        let sealed = seal(&WebhookBinding {
            workspace_id: new.workspace_id,
            endpoint_id: EndpointId(id),
            url: new.url.clone(),
        });
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                rollback(tx).await?;
                return Err(error.into());
            }
        };
        let row: EndpointRow = sqlx::query_as(SET_SECRET)
            .bind(id)
            .bind(sealed)
            .fetch_one(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(row.try_into()?)
    }

    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError> {
        let found: Vec<EndpointRow> = sqlx::query_as(ENDPOINTS)
            .bind(workspace.map(|w| w.0))
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn rotate_secret(
        &self,
        id: EndpointId,
        seal: SealSecret<'_>,
        keep_previous: Duration,
    ) -> Result<Option<Endpoint>, EndpointError> {
        let mut tx = self.begin().await?;
        let place: Option<(i64, String)> = sqlx::query_as(PLACE)
            .bind(id.0)
            .fetch_optional(&mut *tx)
            .await?;
        let Some((workspace, url)) = place else {
            rollback(tx).await?;
            return Ok(None);
        };
        let sealed = seal(&WebhookBinding {
            workspace_id: WorkspaceId(workspace),
            endpoint_id: id,
            url,
        });
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                rollback(tx).await?;
                return Err(error.into());
            }
        };
        let row: EndpointRow = sqlx::query_as(ROTATE)
            .bind(id.0)
            .bind(sealed)
            .bind((!keep_previous.is_zero()).then(|| later(keep_previous)))
            .fetch_one(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(Some(row.try_into()?))
    }

    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(SET_ENABLED)
            .bind(id.0)
            .bind(disabled.map(DisabledReason::as_str))
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if disabled.is_none() {
            sqlx::query(PENDING_NOW)
                .bind(id.0)
                .execute(&mut *tx)
                .await?;
        }
        commit(tx).await?;
        Ok(done > 0)
    }

    async fn remove_endpoint(&self, id: EndpointId) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(REMOVE)
            .bind(id.0)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        sqlx::query(REMOVE_DELIVERIES)
            .bind(id.0)
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(done > 0)
    }

    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError> {
        let found: Vec<SecretsRow> = sqlx::query_as(SECRETS)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(found.into_iter().map(Into::into).collect())
    }

    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(RESEAL)
            .bind(id.0)
            .bind(&old.current)
            .bind(&old.previous)
            .bind(&new.current)
            .bind(&new.previous)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        commit(tx).await?;
        Ok(done > 0)
    }

    async fn delivery_recorded(&self) {
        self.recorded.notified().await;
    }

    async fn lease_deliveries(
        &self,
        policy: &LeasePolicy,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        self.lease_due(policy).await
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<AttemptRecorded, StoreError> {
        self.end_delivery_attempt(delivery, outcome).await
    }

    async fn give_up_deliveries(&self, after: Duration, batch: u32) -> Result<u64, StoreError> {
        self.give_up(after, batch).await
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        let found: Vec<DeliveryRow> = sqlx::query_as(DELIVERIES)
            .bind(filter.endpoint.map(|id| id.0))
            .bind(filter.state.map(|state| state.as_str()))
            .bind(filter.before.map(|id| id.0))
            .bind(filter.limit)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        let found: Vec<DeliveryAttemptRow> = sqlx::query_as(ATTEMPTS)
            .bind(id.0)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn replay(&self, replay: Replay) -> Result<u64, StoreError> {
        let statement = match replay {
            Replay::One(id) => sqlx::query(REPLAY_ONE).bind(id.0),
            Replay::Since {
                endpoint,
                since,
                delivered_too,
            } => sqlx::query(REPLAY_SINCE)
                .bind(endpoint.0)
                .bind(since.to_rfc3339_opts(SecondsFormat::Millis, true))
                .bind(delivered_too),
        };
        let mut tx = self.begin().await?;
        let done = statement.execute(&mut *tx).await?.rows_affected();
        commit(tx).await?;
        Ok(done)
    }

    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError> {
        self.forget_ended(keep_delivered, keep_failed, batch).await
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        self.count_deliveries().await
    }
}
