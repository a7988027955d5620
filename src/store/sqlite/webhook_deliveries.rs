//! Deliveries to webhooks, and the circuits of their endpoints.

use super::{SqliteStore, earlier, id_list, later, now, now_moved_by};
use crate::domain::DeliveryId;
use crate::domain::circuit::{AfterFailure, Circuit};
use crate::domain::webhook::Verdict;
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::{
    AttemptOutcome, AttemptRecorded, CircuitChange, Delivery, DeliveryAttempt, DeliveryCounts,
    DeliveryFilter, DeliveryStore, LeasePolicy, LeasedDelivery, Replay,
};
use crate::store::rows;
use crate::store::sql::sql;
use crate::store::webhook_rows::{
    CircuitRow, DeliveryAttemptRow, DeliveryCountsRow, DeliveryRow, LeasedRow,
};
use async_trait::async_trait;
use chrono::SecondsFormat;
use std::time::Duration;

/// `$1`: limit, `$2`: endpoints to leave out, `$3`: leave out failing ones. Takes one of each endpoint, so
/// that none displaces the others; the order among equals is random. An endpoint whose circuit is open gets
/// nothing.
const DUE: &str = sql!(
    "SELECT id FROM (
        SELECT e.failures > 0 AS failing, (
            SELECT d.id FROM verifyd_webhook_deliveries d
            WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= " now!()
    " ORDER BY d.next_attempt_at, d.id LIMIT 1) AS id
        FROM verifyd_webhook_endpoints e
        WHERE e.enabled AND e.id NOT IN (SELECT value FROM json_each($2))
          AND NOT ($3 AND e.failures > 0)
          AND (e.circuit_probe_at IS NULL OR e.circuit_probe_at <= " now!() ")
     ) WHERE id IS NOT NULL ORDER BY failing, random() LIMIT $1"
);

const BEGIN: &str = sql!(
    "UPDATE verifyd_webhook_deliveries SET attempts = attempts + 1, tries = tries + 1,
        next_attempt_at = " now_moved_by!("$2") " WHERE id IN (SELECT value FROM json_each($1))"
);

const NOTE: &str = "
    INSERT INTO verifyd_webhook_attempts (delivery_id, attempt)
    SELECT id, attempts FROM verifyd_webhook_deliveries
    WHERE id IN (SELECT value FROM json_each($1))";

/// Holds back the next probe of these deliveries' endpoints for the time of the lease.
const PROBE: &str = sql!(
    "UPDATE verifyd_webhook_endpoints SET circuit_probe_at = " now_moved_by!("$2")
    " WHERE circuit_probe_at IS NOT NULL AND id IN (
        SELECT endpoint_id FROM verifyd_webhook_deliveries
        WHERE id IN (SELECT value FROM json_each($1)))"
);

const LEASED: &str = sql!(
    "SELECT d.id, d.message_id, d.payload, d.attempts, d.tries, e.failures > 0 AS failing,
            e.circuit_probe_at IS NOT NULL AS is_probe,
            e.id AS endpoint_id, e.workspace_id, e.url, e.secret,
            CASE WHEN e.previous_secret_until > " now!() " THEN e.previous_secret END AS previous_secret
     FROM verifyd_webhook_deliveries d JOIN verifyd_webhook_endpoints e ON e.id = d.endpoint_id
     WHERE d.id IN (SELECT value FROM json_each($1))"
);

const END_ATTEMPT: &str = "
    UPDATE verifyd_webhook_attempts SET duration_ms = $3, result = $4, http_status = $5
    WHERE delivery_id = $1 AND attempt = $2";

/// A delivered message stays delivered, also when another attempt has begun by now, or when it was given up
/// by its age while it was being sent.
const END_DELIVERY: &str = sql!(
    "UPDATE verifyd_webhook_deliveries SET state = $3, give_up_reason = $5,
        ended_at = CASE WHEN $3 <> 'pending' THEN " now!() " END, next_attempt_at = "
    now_moved_by!("$4") " WHERE id = $1 AND (state = 'pending' AND (attempts = $2 OR $3 = 'delivered')
                         OR state = 'failed' AND give_up_reason = 'age' AND $3 = 'delivered')"
);

/// One that succeeds closes the circuit, whichever it was.
const WORKED: &str = "
    UPDATE verifyd_webhook_endpoints SET failures = 0, circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
    WHERE id = $1 AND (failures > 0 OR circuit_pauses > 0)";

const CIRCUIT: &str =
    "SELECT id, failures, circuit_pauses FROM verifyd_webhook_endpoints WHERE id = $1";

/// `$4`: time of the next probe, relative to now; NULL: unchanged.
const FAILED: &str = sql!(
    "UPDATE verifyd_webhook_endpoints SET failures = $2, circuit_pauses = $3,
        circuit_opened_at = CASE WHEN $3 > 0 THEN coalesce(circuit_opened_at, " now!()
    ") END, circuit_probe_at = CASE WHEN $4 IS NULL THEN circuit_probe_at ELSE " now_moved_by!("$4")
    " END WHERE id = $1"
);

const GONE: &str = "
    UPDATE verifyd_webhook_endpoints
    SET failures = failures + 1, enabled = 0, disabled_reason = 'gone', circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
    WHERE id = $1 AND enabled";

/// Also for disabled endpoints, so that their pending deliveries are bounded, too.
const GIVE_UP: &str = sql!(
    "UPDATE verifyd_webhook_deliveries SET state = 'failed', give_up_reason = 'age', ended_at = " now!()
    " WHERE id IN (
        SELECT d.id FROM verifyd_webhook_endpoints e CROSS JOIN verifyd_webhook_deliveries d
            ON d.endpoint_id = e.id
        WHERE d.state = 'pending' AND d.pending_since < " now_moved_by!("$1") " LIMIT $2)"
);

const PRUNE: &str = sql!(
    "DELETE FROM verifyd_webhook_deliveries WHERE id IN (
        SELECT id FROM verifyd_webhook_deliveries WHERE state = $1 AND ended_at < " now_moved_by!("$2")
    " ORDER BY ended_at LIMIT $3)"
);

const COUNTS: &str = "
    SELECT (SELECT count(*) FROM verifyd_webhook_deliveries WHERE state = 'pending') AS pending,
           f.failed, f.failed_by_age, o.oldest_pending_seconds, o.open_circuits
    FROM (SELECT count(*) AS failed,
                 count(*) FILTER (WHERE give_up_reason = 'age') AS failed_by_age
          FROM verifyd_webhook_deliveries WHERE state = 'failed') f,
         (SELECT (julianday('now') - julianday(min(since))) * 86400.0 AS oldest_pending_seconds,
                 count(*) FILTER (WHERE enabled AND circuit_pauses > 0) AS open_circuits
          FROM (SELECT e.enabled, e.circuit_pauses, (
                    SELECT min(d.pending_since) FROM verifyd_webhook_deliveries d
                    WHERE d.endpoint_id = e.id AND d.state = 'pending') AS since
                FROM verifyd_webhook_endpoints e)) o";

const DELIVERIES: &str = "
    SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state, d.attempts,
           d.next_attempt_at, d.created_at, d.ended_at, d.give_up_reason, a.result, a.http_status
    FROM verifyd_webhook_deliveries d LEFT JOIN verifyd_webhook_attempts a
        ON a.delivery_id = d.id AND a.attempt = d.attempts
    WHERE ($1 IS NULL OR d.endpoint_id = $1) AND ($2 IS NULL OR d.state = $2)
      AND ($3 IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4";

const ATTEMPTS: &str = "
    SELECT delivery_id, attempt, started_at, duration_ms, result, http_status
    FROM verifyd_webhook_attempts WHERE delivery_id = $1 ORDER BY attempt";

const REPLAY_ONE: &str = sql!(
    "UPDATE verifyd_webhook_deliveries
     SET state = 'pending', ended_at = NULL, tries = 0, give_up_reason = NULL,
         next_attempt_at = " now!() ", pending_since = " now!() " WHERE id = $1 AND state <> 'pending'"
);

const REPLAY_SINCE: &str = sql!(
    "UPDATE verifyd_webhook_deliveries
     SET state = 'pending', ended_at = NULL, tries = 0, give_up_reason = NULL,
         next_attempt_at = " now!() ", pending_since = " now!()
    " WHERE endpoint_id = $1 AND created_at >= $2
      AND (state = 'failed' OR $3 AND state = 'delivered')"
);

#[async_trait]
impl DeliveryStore for SqliteStore {
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
        // A write blocks all other writers, so it is made only when there is something to write.
        let anything = due().fetch_optional(&mut *self.reader().await?).await?;
        if anything.is_none() {
            return Ok(Vec::new());
        }
        self.transaction(async |tx| {
            let ids: Vec<i64> = due().fetch_all(&mut *tx).await?;
            let ids = id_list(&ids);
            for statement in [BEGIN, PROBE] {
                sqlx::query(statement)
                    .bind(&ids)
                    .bind(later(policy.lease))
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(NOTE).bind(&ids).execute(&mut *tx).await?;
            let found: Vec<LeasedRow> = sqlx::query_as(LEASED)
                .bind(&ids)
                .fetch_all(&mut *tx)
                .await?;
            rows::all(found)
        })
        .await
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<AttemptRecorded, StoreError> {
        let endpoint = delivery.endpoint.endpoint_id.0;
        let (state, wait) = outcome.next.state_and_wait();
        self.transaction(async |tx| {
            sqlx::query(END_ATTEMPT)
                .bind(delivery.id.0)
                .bind(delivery.attempt)
                .bind(i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX))
                .bind(outcome.sent.result.as_str())
                .bind(outcome.sent.status_code)
                .execute(&mut *tx)
                .await?;
            let ended = sqlx::query(END_DELIVERY)
                .bind(delivery.id.0)
                .bind(delivery.attempt)
                .bind(state)
                .bind(later(wait))
                .bind(outcome.give_up_reason().map(|reason| reason.as_str()))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            let mut circuit = CircuitChange::Unchanged;
            match outcome.sent.result.verdict() {
                verdict @ (Verdict::Delivered | Verdict::GiveUp) => {
                    let delivered = verdict == Verdict::Delivered;
                    let changed = sqlx::query(if delivered { WORKED } else { GONE })
                        .bind(endpoint)
                        .execute(&mut *tx)
                        .await?
                        .rows_affected();
                    if delivered && delivery.is_probe && changed > 0 {
                        circuit = CircuitChange::Closed;
                    }
                }
                Verdict::TryAgain => {
                    let row: Option<CircuitRow> = sqlx::query_as(CIRCUIT)
                        .bind(endpoint)
                        .fetch_optional(&mut *tx)
                        .await?;
                    if let Some(row) = row {
                        let mut now = Circuit::try_from(row)?;
                        let asked = outcome.sent.retry_after.unwrap_or_default();
                        let after = now.fail(delivery.is_probe, asked, &outcome.circuit);
                        let pause = match after {
                            AfterFailure::Unchanged => None,
                            AfterFailure::Opens(pause) | AfterFailure::StaysOpen(pause) => {
                                Some(pause)
                            }
                        };
                        sqlx::query(FAILED)
                            .bind(endpoint)
                            .bind(now.failures)
                            .bind(now.pauses)
                            .bind(pause.map(later))
                            .execute(&mut *tx)
                            .await?;
                        circuit = after.into();
                    }
                }
            }
            Ok(AttemptRecorded {
                is_current: ended > 0,
                circuit,
            })
        })
        .await
    }

    async fn give_up_deliveries(&self, after: Duration, batch: u32) -> Result<u64, StoreError> {
        self.execute(sqlx::query(GIVE_UP).bind(earlier(after)).bind(batch))
            .await
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
        self.transaction(async |tx| {
            let done = statement.execute(&mut *tx).await?.rows_affected();
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
        self.transaction(async |tx| {
            let mut deleted = 0;
            for (state, keep) in [("delivered", keep_delivered), ("failed", keep_failed)] {
                deleted += sqlx::query(PRUNE)
                    .bind(state)
                    .bind(earlier(keep))
                    .bind(batch)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
            }
            Ok(deleted)
        })
        .await
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        let row: DeliveryCountsRow = sqlx::query_as(COUNTS)
            .fetch_one(&mut *self.reader().await?)
            .await?;
        Ok(row.into())
    }
}
