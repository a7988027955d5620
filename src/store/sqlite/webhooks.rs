//! Endpoints of webhooks and the deliveries to them. `complete` writes the deliveries.

use super::{SqliteStore, commit, earlier, id_list, later, now, now_moved_by, rollback};
use crate::domain::webhook::{AttemptResult, DisabledReason, WebhookBinding};
use crate::domain::{DeliveryId, EndpointId, WorkspaceId};
use crate::ports::store::StoreError;
use crate::ports::webhooks::{
    AttemptOutcome, Delivery, DeliveryAttempt, DeliveryCounts, DeliveryFilter, Endpoint,
    EndpointError, LeasePolicy, LeasedDelivery, NewEndpoint, Next, Replay, SealSecret,
    SealedSecrets, WebhookStore,
};
use crate::store::error::from_sqlx;
use crate::store::rows;
use crate::store::webhook_rows::{
    DeliveryAttemptRow, DeliveryCountsRow, DeliveryRow, EndpointRow, LeasedRow, SecretsRow,
};
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
            " THEN previous_secret_until END AS previous_secret_until"
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
    SET enabled = $2 IS NULL, disabled_reason = $2, failures = 0 WHERE id = $1";

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

/// `$1`: most of them, `$2`: endpoints to leave out, `$3`: leave out failing ones. One of each
/// endpoint, so that none crowds out the others; among equals the order is left to chance.
const DUE: &str = concat!(
    "SELECT id FROM ( \
        SELECT d.id, e.failures > 0 AS failing, row_number() OVER ( \
            PARTITION BY d.endpoint_id ORDER BY d.next_attempt_at, d.id) AS place \
        FROM verifyd_webhook_deliveries d \
        JOIN verifyd_webhook_endpoints e ON e.id = d.endpoint_id \
        WHERE e.enabled AND d.state = 'pending' AND d.next_attempt_at <= ",
    now!(),
    " AND e.id NOT IN (SELECT value FROM json_each($2)) AND NOT ($3 AND e.failures > 0) \
     ) WHERE place = 1 ORDER BY failing, random() LIMIT $1"
);

const BEGIN: &str = concat!(
    "UPDATE verifyd_webhook_deliveries SET attempts = attempts + 1, tries = tries + 1, \
        next_attempt_at = ",
    now_moved_by!("$2"),
    " WHERE id IN (SELECT value FROM json_each($1))"
);

const NOTE: &str = "\
    INSERT INTO verifyd_webhook_attempts (delivery_id, attempt) \
    SELECT id, attempts FROM verifyd_webhook_deliveries \
    WHERE id IN (SELECT value FROM json_each($1))";

const LEASED: &str = concat!(
    "SELECT d.id, d.message_id, d.payload, d.attempts, d.tries, e.failures > 0 AS failing, \
            e.id AS endpoint_id, e.workspace_id, e.url, e.secret, \
            CASE WHEN e.previous_secret_until > ",
    now!(),
    " THEN e.previous_secret END AS previous_secret \
     FROM verifyd_webhook_deliveries d JOIN verifyd_webhook_endpoints e ON e.id = d.endpoint_id \
     WHERE d.id IN (SELECT value FROM json_each($1))"
);

const END_ATTEMPT: &str = "\
    UPDATE verifyd_webhook_attempts SET duration_ms = $3, result = $4, http_status = $5 \
    WHERE delivery_id = $1 AND attempt = $2";

/// What was delivered is delivered, also when another attempt has begun by now.
const END_DELIVERY: &str = concat!(
    "UPDATE verifyd_webhook_deliveries SET state = $3, ended_at = CASE WHEN $3 <> 'pending' THEN ",
    now!(),
    " END, next_attempt_at = ",
    now_moved_by!("$4"),
    " WHERE id = $1 AND state = 'pending' AND (attempts = $2 OR $3 = 'delivered')"
);

const WORKED: &str =
    "UPDATE verifyd_webhook_endpoints SET failures = 0 WHERE id = $1 AND failures > 0";
const DID_NOT_WORK: &str =
    "UPDATE verifyd_webhook_endpoints SET failures = failures + 1 WHERE id = $1";
const GONE: &str = "\
    UPDATE verifyd_webhook_endpoints \
    SET failures = failures + 1, enabled = 0, disabled_reason = 'gone' WHERE id = $1 AND enabled";

const DELIVERIES: &str = "\
    SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state, d.attempts, \
           d.next_attempt_at, d.created_at, d.ended_at, a.result, a.http_status \
    FROM verifyd_webhook_deliveries d LEFT JOIN verifyd_webhook_attempts a \
        ON a.delivery_id = d.id AND a.attempt = d.attempts \
    WHERE ($1 IS NULL OR d.endpoint_id = $1) AND ($2 IS NULL OR d.state = $2) \
      AND ($3 IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4";

const ATTEMPTS: &str = "\
    SELECT delivery_id, attempt, started_at, duration_ms, result, http_status \
    FROM verifyd_webhook_attempts WHERE delivery_id = $1 ORDER BY attempt";

const REPLAY_ONE: &str = concat!(
    "UPDATE verifyd_webhook_deliveries \
     SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = ",
    now!(),
    " WHERE id = $1 AND state <> 'pending'"
);

const REPLAY_SINCE: &str = concat!(
    "UPDATE verifyd_webhook_deliveries \
     SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = ",
    now!(),
    " WHERE endpoint_id = $1 AND created_at >= $2 \
      AND (state = 'failed' OR $3 AND state = 'delivered')"
);

const PRUNE: &str = concat!(
    "DELETE FROM verifyd_webhook_deliveries WHERE id IN ( \
        SELECT id FROM verifyd_webhook_deliveries WHERE state = $1 AND ended_at < ",
    now_moved_by!("$2"),
    " ORDER BY ended_at LIMIT $3)"
);

const COUNTS: &str = "\
    SELECT (SELECT count(*) FROM verifyd_webhook_deliveries WHERE state = 'pending') AS pending, \
           (SELECT count(*) FROM verifyd_webhook_deliveries WHERE state = 'failed') AS failed";

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
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(row.try_into()?)
    }

    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError> {
        let found: Vec<EndpointRow> = sqlx::query_as(ENDPOINTS)
            .bind(workspace.map(|w| w.0))
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?
            .rows_affected();
        if disabled.is_none() {
            sqlx::query(PENDING_NOW)
                .bind(id.0)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        }
        commit(tx).await?;
        Ok(done > 0)
    }

    async fn remove_endpoint(&self, id: EndpointId) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(REMOVE)
            .bind(id.0)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?
            .rows_affected();
        sqlx::query(REMOVE_DELIVERIES)
            .bind(id.0)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(done > 0)
    }

    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError> {
        let found: Vec<SecretsRow> = sqlx::query_as(SECRETS)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?
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
        let busy: Vec<i64> = policy.busy.iter().map(|id| id.0).collect();
        let due = || {
            sqlx::query_scalar::<_, i64>(DUE)
                .bind(policy.limit)
                .bind(id_list(&busy))
                .bind(policy.healthy_only)
        };
        // Writing holds everybody else up, so only when there is something to write.
        let anything = due()
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        if anything.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let ids: Vec<i64> = due().fetch_all(&mut *tx).await.map_err(from_sqlx)?;
        let ids = id_list(&ids);
        sqlx::query(BEGIN)
            .bind(&ids)
            .bind(later(policy.lease))
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        sqlx::query(NOTE)
            .bind(&ids)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let found: Vec<LeasedRow> = sqlx::query_as(LEASED)
            .bind(&ids)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        rows::all(found)
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<bool, StoreError> {
        let (state, wait) = match outcome.next {
            Next::Delivered => ("delivered", Duration::ZERO),
            Next::Retry(wait) => ("pending", wait),
            Next::GiveUp => ("failed", Duration::ZERO),
        };
        let mut tx = self.begin().await?;
        sqlx::query(END_ATTEMPT)
            .bind(delivery.id.0)
            .bind(delivery.attempt)
            .bind(i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX))
            .bind(outcome.result.as_str())
            .bind(outcome.http_status)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let ended = sqlx::query(END_DELIVERY)
            .bind(delivery.id.0)
            .bind(delivery.attempt)
            .bind(state)
            .bind(later(wait))
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?
            .rows_affected();
        sqlx::query(match outcome.result {
            AttemptResult::Delivered => WORKED,
            AttemptResult::Gone => GONE,
            _ => DID_NOT_WORK,
        })
        .bind(delivery.endpoint.endpoint_id.0)
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(ended > 0)
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        let found: Vec<DeliveryRow> = sqlx::query_as(DELIVERIES)
            .bind(filter.endpoint.map(|id| id.0))
            .bind(filter.state.map(|state| state.as_str()))
            .bind(filter.before.map(|id| id.0))
            .bind(filter.limit)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        rows::all(found)
    }

    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        let found: Vec<DeliveryAttemptRow> = sqlx::query_as(ATTEMPTS)
            .bind(id.0)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
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
        let done = statement
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?
            .rows_affected();
        commit(tx).await?;
        Ok(done)
    }

    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let mut deleted = 0;
        for (state, keep) in [("delivered", keep_delivered), ("failed", keep_failed)] {
            deleted += sqlx::query(PRUNE)
                .bind(state)
                .bind(earlier(keep))
                .bind(batch)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
        }
        commit(tx).await?;
        Ok(deleted)
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        let row: DeliveryCountsRow = sqlx::query_as(COUNTS)
            .fetch_one(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        Ok(row.into())
    }
}
