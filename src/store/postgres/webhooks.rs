//! Endpoints of webhooks and the deliveries to them. `complete` writes the deliveries.

use super::{PostgresStore, commit, rollback, seconds};
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
use std::time::Duration;

/// The columns of an `EndpointRow`. A previous secret that is over is none.
macro_rules! endpoint_columns {
    () => {
        "id, workspace_id, url, description, changed_only, enabled, disabled_reason, \
         failures::bigint AS failures, created_at, \
         CASE WHEN previous_secret_until > now() THEN previous_secret_until END \
             AS previous_secret_until"
    };
}

const ADD: &str = "\
    INSERT INTO verifyd.webhook_endpoints (workspace_id, url, description, changed_only, secret) \
    VALUES ($1, $2, $3, $4, '') RETURNING id";

const SET_SECRET: &str = concat!(
    "UPDATE verifyd.webhook_endpoints SET secret = $2 WHERE id = $1 RETURNING ",
    endpoint_columns!()
);

const ENDPOINTS: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM verifyd.webhook_endpoints WHERE $1::bigint IS NULL OR workspace_id = $1 ORDER BY id"
);

const PLACE: &str =
    "SELECT workspace_id, url FROM verifyd.webhook_endpoints WHERE id = $1 FOR NO KEY UPDATE";

const ROTATE: &str = concat!(
    "UPDATE verifyd.webhook_endpoints SET secret = $2, \
        previous_secret = CASE WHEN $3 > 0 THEN secret END, \
        previous_secret_until = CASE WHEN $3 > 0 THEN now() + make_interval(secs => $3) END \
     WHERE id = $1 RETURNING ",
    endpoint_columns!()
);

const SET_ENABLED: &str = "\
    UPDATE verifyd.webhook_endpoints \
    SET enabled = $2::text IS NULL, disabled_reason = $2, failures = 0 WHERE id = $1";

const PENDING_NOW: &str = "\
    UPDATE verifyd.webhook_deliveries SET next_attempt_at = now() \
    WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > now()";

const REMOVE: &str = "DELETE FROM verifyd.webhook_endpoints WHERE id = $1";

const REMOVE_DELIVERIES: &str = "\
    DELETE FROM verifyd.webhook_deliveries WHERE id IN ( \
        SELECT id FROM verifyd.webhook_deliveries WHERE endpoint_id = $1 ORDER BY id LIMIT $2)";

/// Deliveries removed in one transaction.
const CHUNK: i64 = 1000;

const SECRETS: &str = "\
    SELECT id AS endpoint_id, workspace_id, url, secret, previous_secret \
    FROM verifyd.webhook_endpoints ORDER BY id";

const RESEAL: &str = "\
    UPDATE verifyd.webhook_endpoints SET secret = $4, previous_secret = $5 \
    WHERE id = $1 AND secret = $2 AND previous_secret IS NOT DISTINCT FROM $3";

/// `$1`: most of them, `$2`: seconds of the lease, `$3`: endpoints to leave out, `$4`: leave out
/// failing ones. One of each endpoint, so that none crowds out the others; among equals the order is
/// left to chance.
const LEASE: &str = "\
    WITH due AS ( \
        SELECT d.id FROM verifyd.webhook_endpoints e \
        CROSS JOIN LATERAL ( \
            SELECT d.id FROM verifyd.webhook_deliveries d \
            WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= now() \
            ORDER BY d.next_attempt_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) d \
        WHERE e.enabled AND e.id <> ALL($3) AND NOT ($4 AND e.failures > 0) \
        ORDER BY e.failures > 0, random() LIMIT $1 \
    ), begun AS ( \
        UPDATE verifyd.webhook_deliveries d SET attempts = attempts + 1, tries = tries + 1, \
            next_attempt_at = clock_timestamp() + make_interval(secs => $2) \
        FROM due WHERE d.id = due.id \
        RETURNING d.id, d.endpoint_id, d.message_id, d.payload, d.attempts, d.tries \
    ), noted AS ( \
        INSERT INTO verifyd.webhook_attempts (delivery_id, attempt) \
        SELECT id, attempts FROM begun \
    ) \
    SELECT b.id, b.message_id, b.payload, b.attempts::bigint AS attempts, \
           b.tries::bigint AS tries, e.failures > 0 AS failing, e.id AS endpoint_id, \
           e.workspace_id, e.url, e.secret, \
           CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS previous_secret \
    FROM begun b JOIN verifyd.webhook_endpoints e ON e.id = b.endpoint_id";

const END_ATTEMPT: &str = "\
    UPDATE verifyd.webhook_attempts SET duration_ms = $3, result = $4, http_status = $5 \
    WHERE delivery_id = $1 AND attempt = $2";

/// What was delivered is delivered, also when another attempt has begun by now.
const END_DELIVERY: &str = "\
    UPDATE verifyd.webhook_deliveries \
    SET state = $3, ended_at = CASE WHEN $3 <> 'pending' THEN now() END, \
        next_attempt_at = now() + make_interval(secs => $4) \
    WHERE id = $1 AND state = 'pending' AND (attempts = $2 OR $3 = 'delivered')";

const WORKED: &str =
    "UPDATE verifyd.webhook_endpoints SET failures = 0 WHERE id = $1 AND failures > 0";
const DID_NOT_WORK: &str =
    "UPDATE verifyd.webhook_endpoints SET failures = failures + 1 WHERE id = $1";
const GONE: &str = "\
    UPDATE verifyd.webhook_endpoints \
    SET failures = failures + 1, enabled = false, disabled_reason = 'gone' \
    WHERE id = $1 AND enabled";

const DELIVERIES: &str = "\
    SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state, \
           d.attempts::bigint AS attempts, d.next_attempt_at, d.created_at, d.ended_at, \
           a.result, a.http_status::bigint AS http_status \
    FROM verifyd.webhook_deliveries d LEFT JOIN verifyd.webhook_attempts a \
        ON a.delivery_id = d.id AND a.attempt = d.attempts \
    WHERE ($1::bigint IS NULL OR d.endpoint_id = $1) AND ($2::text IS NULL OR d.state = $2) \
      AND ($3::bigint IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4";

const ATTEMPTS: &str = "\
    SELECT delivery_id, attempt::bigint AS attempt, started_at, \
           duration_ms::bigint AS duration_ms, result, http_status::bigint AS http_status \
    FROM verifyd.webhook_attempts WHERE delivery_id = $1 ORDER BY attempt";

const REPLAY_ONE: &str = "\
    UPDATE verifyd.webhook_deliveries \
    SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = now() \
    WHERE id = $1 AND state <> 'pending'";

const REPLAY_SINCE: &str = "\
    UPDATE verifyd.webhook_deliveries \
    SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = now() \
    WHERE endpoint_id = $1 AND created_at >= $2 AND (state = 'failed' OR $3 AND state = 'delivered')";

const PRUNE: &str = "\
    DELETE FROM verifyd.webhook_deliveries WHERE id IN ( \
        SELECT id FROM verifyd.webhook_deliveries \
        WHERE state = $1 AND ended_at < now() - make_interval(secs => $2) \
        ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED)";

/// Recorded by a run that was completed while its endpoint was being removed.
const PRUNE_ORPHANS: &str = "\
    DELETE FROM verifyd.webhook_deliveries WHERE id IN ( \
        SELECT d.id FROM verifyd.webhook_deliveries d WHERE d.state = 'pending' \
        AND NOT EXISTS (SELECT FROM verifyd.webhook_endpoints e WHERE e.id = d.endpoint_id) \
        LIMIT $1 FOR UPDATE SKIP LOCKED)";

const COUNTS: &str = "\
    SELECT (SELECT count(*) FROM verifyd.webhook_deliveries WHERE state = 'pending') AS pending, \
           (SELECT count(*) FROM verifyd.webhook_deliveries WHERE state = 'failed') AS failed";

#[async_trait]
impl WebhookStore for PostgresStore {
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
    ) -> Result<Endpoint, EndpointError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let id: i64 = self
                .scalar(ADD)
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
            let row: EndpointRow = self
                .rows(SET_SECRET)
                .bind(id)
                .bind(sealed)
                .fetch_one(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            Ok(row.try_into()?)
        })
        .await
    }

    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let found: Vec<EndpointRow> = self
                .rows(ENDPOINTS)
                .bind(workspace.map(|w| w.0))
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            rows::all(found)
        })
        .await
    }

    async fn rotate_secret(
        &self,
        id: EndpointId,
        seal: SealSecret<'_>,
        keep_previous: Duration,
    ) -> Result<Option<Endpoint>, EndpointError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let place: Option<(i64, String)> = self
                .rows(PLACE)
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
            let row: EndpointRow = self
                .rows(ROTATE)
                .bind(id.0)
                .bind(sealed)
                .bind(seconds(keep_previous))
                .fetch_one(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            Ok(Some(row.try_into()?))
        })
        .await
    }

    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
    ) -> Result<bool, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let done = self
                .sql(SET_ENABLED)
                .bind(id.0)
                .bind(disabled.map(DisabledReason::as_str))
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
            if disabled.is_none() {
                self.sql(PENDING_NOW)
                    .bind(id.0)
                    .execute(&mut *tx)
                    .await
                    .map_err(from_sqlx)?;
            }
            commit(tx).await?;
            Ok(done > 0)
        })
        .await
    }

    async fn remove_endpoint(&self, id: EndpointId) -> Result<bool, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let done = self
                .sql(REMOVE)
                .bind(id.0)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
            commit(tx).await?;
            loop {
                let mut tx = self.begin().await?;
                let deleted = self
                    .sql(REMOVE_DELIVERIES)
                    .bind(id.0)
                    .bind(CHUNK)
                    .execute(&mut *tx)
                    .await
                    .map_err(from_sqlx)?
                    .rows_affected();
                commit(tx).await?;
                if deleted == 0 {
                    return Ok(done > 0);
                }
            }
        })
        .await
    }

    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let found: Vec<SecretsRow> = self
                .rows(SECRETS)
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            Ok(found.into_iter().map(Into::into).collect())
        })
        .await
    }

    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
    ) -> Result<bool, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let done = self
                .sql(RESEAL)
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
        })
        .await
    }

    async fn delivery_recorded(&self) {
        self.recorded.notified().await;
    }

    async fn lease_deliveries(
        &self,
        policy: &LeasePolicy,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        self.in_time(async {
            let busy: Vec<i64> = policy.busy.iter().map(|id| id.0).collect();
            let mut tx = self.begin().await?;
            let found: Vec<LeasedRow> = self
                .rows(LEASE)
                .bind(i64::from(policy.limit))
                .bind(seconds(policy.lease))
                .bind(busy)
                .bind(policy.healthy_only)
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            rows::all(found)
        })
        .await
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<bool, StoreError> {
        self.in_time(async {
            let attempt = i32::try_from(delivery.attempt).unwrap_or(i32::MAX);
            let (state, wait) = match outcome.next {
                Next::Delivered => ("delivered", Duration::ZERO),
                Next::Retry(wait) => ("pending", wait),
                Next::GiveUp => ("failed", Duration::ZERO),
            };
            let mut tx = self.begin().await?;
            self.sql(END_ATTEMPT)
                .bind(delivery.id.0)
                .bind(attempt)
                .bind(i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX))
                .bind(outcome.result.as_str())
                .bind(outcome.http_status.map(i32::from))
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            let ended = self
                .sql(END_DELIVERY)
                .bind(delivery.id.0)
                .bind(attempt)
                .bind(state)
                .bind(seconds(wait))
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
            self.sql(match outcome.result {
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
        })
        .await
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let found: Vec<DeliveryRow> = self
                .rows(DELIVERIES)
                .bind(filter.endpoint.map(|id| id.0))
                .bind(filter.state.map(|state| state.as_str()))
                .bind(filter.before.map(|id| id.0))
                .bind(i64::from(filter.limit))
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            rows::all(found)
        })
        .await
    }

    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let found: Vec<DeliveryAttemptRow> = self
                .rows(ATTEMPTS)
                .bind(id.0)
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            rows::all(found)
        })
        .await
    }

    async fn replay(&self, replay: Replay) -> Result<u64, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let statement = match replay {
                Replay::One(id) => self.sql(REPLAY_ONE).bind(id.0),
                Replay::Since {
                    endpoint,
                    since,
                    delivered_too,
                } => self
                    .sql(REPLAY_SINCE)
                    .bind(endpoint.0)
                    .bind(since)
                    .bind(delivered_too),
            };
            let done = statement
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
            commit(tx).await?;
            Ok(done)
        })
        .await
    }

    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError> {
        self.in_time(async {
            let mut deleted = 0;
            for (state, keep) in [("delivered", keep_delivered), ("failed", keep_failed)] {
                let mut tx = self.begin().await?;
                deleted += self
                    .sql(PRUNE)
                    .bind(state)
                    .bind(seconds(keep))
                    .bind(i64::from(batch))
                    .execute(&mut *tx)
                    .await
                    .map_err(from_sqlx)?
                    .rows_affected();
                commit(tx).await?;
            }
            let mut tx = self.begin().await?;
            deleted += self
                .sql(PRUNE_ORPHANS)
                .bind(i64::from(batch))
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?
                .rows_affected();
            commit(tx).await?;
            Ok(deleted)
        })
        .await
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let row: DeliveryCountsRow = self
                .rows(COUNTS)
                .fetch_one(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            Ok(row.into())
        })
        .await
    }
}
