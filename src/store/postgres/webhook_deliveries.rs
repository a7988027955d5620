//! Deliveries to webhooks, and the circuits of their endpoints.
//!
//! Deliveries are locked before their endpoint.

use super::{PostgresStore, seconds};
use crate::domain::DeliveryId;
use crate::domain::circuit::{AfterFailure, Circuit};
use crate::domain::webhook::Verdict;
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::{
    AttemptOutcome, AttemptRecorded, CircuitChange, Delivery, DeliveryAttempt, DeliveryCounts,
    DeliveryFilter, DeliveryStore, LeasePolicy, LeasedDelivery, Replay,
};
use crate::store::rows;
use crate::store::webhook_rows::{
    CircuitRow, DeliveryAttemptRow, DeliveryCountsRow, DeliveryRow, LeasedRow,
};
use async_trait::async_trait;
use std::time::Duration;

/// `$1`: limit, `$2`: seconds of the lease, `$3`: endpoints to leave out, `$4`: leave out failing ones. Takes
/// one of each endpoint, so that none displaces the others; the order among equals is random.
///
/// An endpoint whose circuit is open gets nothing. After its pause, the transaction that locks its row takes
/// one delivery, and delays the next probe by the time of the lease.
const LEASE: &str = "
    WITH due AS MATERIALIZED (
        SELECT d.id, e.id AS endpoint_id, e.circuit_probe_at IS NOT NULL AS is_probe
        FROM verifyd.webhook_endpoints e
        CROSS JOIN LATERAL (
            SELECT d.id FROM verifyd.webhook_deliveries d
            WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= now()
            ORDER BY d.next_attempt_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) d
        WHERE e.enabled AND e.id <> ALL($3) AND NOT ($4 AND e.failures > 0)
          AND (e.circuit_probe_at IS NULL OR e.circuit_probe_at <= now())
        ORDER BY e.failures > 0, random() LIMIT $1
    ), may_probe AS MATERIALIZED (
        SELECT e.id FROM verifyd.webhook_endpoints e
        WHERE e.id IN (SELECT endpoint_id FROM due WHERE is_probe) AND e.circuit_probe_at <= now()
        FOR NO KEY UPDATE SKIP LOCKED
    ), probing AS (
        UPDATE verifyd.webhook_endpoints e
        SET circuit_probe_at = clock_timestamp() + make_interval(secs => $2)
        FROM may_probe WHERE e.id = may_probe.id RETURNING e.id
    ), begun AS (
        UPDATE verifyd.webhook_deliveries d SET attempts = attempts + 1, tries = tries + 1,
            next_attempt_at = clock_timestamp() + make_interval(secs => $2)
        FROM due WHERE d.id = due.id
            AND (NOT due.is_probe OR due.endpoint_id IN (SELECT id FROM probing))
        RETURNING d.id, d.endpoint_id, d.message_id, d.payload, d.attempts, d.tries, due.is_probe
    ), noted AS (
        INSERT INTO verifyd.webhook_attempts (delivery_id, attempt)
        SELECT id, attempts FROM begun
    )
    SELECT b.id, b.message_id, b.payload, b.attempts::bigint AS attempts,
           b.tries::bigint AS tries, e.failures > 0 AS failing, b.is_probe, e.id AS endpoint_id,
           e.workspace_id, e.url, e.secret,
           CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS previous_secret
    FROM begun b JOIN verifyd.webhook_endpoints e ON e.id = b.endpoint_id";

const END_ATTEMPT: &str = "
    UPDATE verifyd.webhook_attempts SET duration_ms = $3, result = $4, http_status = $5
    WHERE delivery_id = $1 AND attempt = $2";

/// A delivered message stays delivered, also when another attempt has begun by now, or when it was given up
/// by its age while it was being sent.
const END_DELIVERY: &str = "
    UPDATE verifyd.webhook_deliveries
    SET state = $3, ended_at = CASE WHEN $3 <> 'pending' THEN now() END, give_up_reason = $5,
        next_attempt_at = now() + make_interval(secs => $4)
    WHERE id = $1 AND (state = 'pending' AND (attempts = $2 OR $3 = 'delivered')
                       OR state = 'failed' AND give_up_reason = 'age' AND $3 = 'delivered')";

/// One that succeeds closes the circuit, whichever it was.
const WORKED: &str = "
    UPDATE verifyd.webhook_endpoints SET failures = 0, circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
    WHERE id = $1 AND (failures > 0 OR circuit_pauses > 0)";

const CIRCUIT: &str = "
    SELECT id, failures::bigint AS failures, circuit_pauses::bigint AS circuit_pauses
    FROM verifyd.webhook_endpoints WHERE id = $1 FOR NO KEY UPDATE";

/// `$4`: seconds until the next probe; NULL: unchanged.
const FAILED: &str = "
    UPDATE verifyd.webhook_endpoints SET failures = $2, circuit_pauses = $3,
        circuit_opened_at = CASE WHEN $3 > 0 THEN coalesce(circuit_opened_at, now()) END,
        circuit_probe_at = coalesce(clock_timestamp() + make_interval(secs => $4), circuit_probe_at)
    WHERE id = $1";

const GONE: &str = "
    UPDATE verifyd.webhook_endpoints
    SET failures = failures + 1, enabled = false, disabled_reason = 'gone', circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
    WHERE id = $1 AND enabled";

/// Also for disabled endpoints, so that their pending deliveries are bounded, too.
const GIVE_UP: &str = "
    WITH old AS MATERIALIZED (
        SELECT d.id FROM verifyd.webhook_endpoints e CROSS JOIN LATERAL (
            SELECT d.id FROM verifyd.webhook_deliveries d
            WHERE d.endpoint_id = e.id AND d.state = 'pending'
              AND d.pending_since < now() - make_interval(secs => $1)
            ORDER BY d.pending_since LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) d
        LIMIT $2
    )
    UPDATE verifyd.webhook_deliveries d
    SET state = 'failed', ended_at = now(), give_up_reason = 'age'
    FROM old WHERE d.id = old.id";

const PRUNE: &str = "
    DELETE FROM verifyd.webhook_deliveries WHERE id IN (
        SELECT id FROM verifyd.webhook_deliveries
        WHERE state = $1 AND ended_at < now() - make_interval(secs => $2)
        ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED)";

/// Recorded by a run that was completed while its endpoint was being removed.
const PRUNE_ORPHANS: &str = "
    DELETE FROM verifyd.webhook_deliveries WHERE id IN (
        SELECT d.id FROM verifyd.webhook_deliveries d WHERE d.state = 'pending'
        AND NOT EXISTS (SELECT FROM verifyd.webhook_endpoints e WHERE e.id = d.endpoint_id)
        LIMIT $1 FOR UPDATE SKIP LOCKED)";

const COUNTS: &str = "
    SELECT (SELECT count(*) FROM verifyd.webhook_deliveries WHERE state = 'pending') AS pending,
           f.failed, f.failed_by_age, o.oldest_pending_seconds, o.open_circuits
    FROM (SELECT count(*) AS failed,
                 count(*) FILTER (WHERE give_up_reason = 'age') AS failed_by_age
          FROM verifyd.webhook_deliveries WHERE state = 'failed') f,
         (SELECT extract(epoch FROM now() - min(d.since))::float8 AS oldest_pending_seconds,
                 count(*) FILTER (WHERE e.enabled AND e.circuit_pauses > 0) AS open_circuits
          FROM verifyd.webhook_endpoints e CROSS JOIN LATERAL (
              SELECT min(pending_since) AS since FROM verifyd.webhook_deliveries
              WHERE endpoint_id = e.id AND state = 'pending') d) o";

const DELIVERIES: &str = "
    SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state,
           d.attempts::bigint AS attempts, d.next_attempt_at, d.created_at, d.ended_at,
           d.give_up_reason, a.result, a.http_status::bigint AS http_status
    FROM verifyd.webhook_deliveries d LEFT JOIN verifyd.webhook_attempts a
        ON a.delivery_id = d.id AND a.attempt = d.attempts
    WHERE ($1::bigint IS NULL OR d.endpoint_id = $1) AND ($2::text IS NULL OR d.state = $2)
      AND ($3::bigint IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4";

const ATTEMPTS: &str = "
    SELECT delivery_id, attempt::bigint AS attempt, started_at,
           duration_ms::bigint AS duration_ms, result, http_status::bigint AS http_status
    FROM verifyd.webhook_attempts WHERE delivery_id = $1 ORDER BY attempt";

const REPLAY_ONE: &str = "
    UPDATE verifyd.webhook_deliveries
    SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = now(),
        pending_since = now(), give_up_reason = NULL
    WHERE id = $1 AND state <> 'pending'";

const REPLAY_SINCE: &str = "
    UPDATE verifyd.webhook_deliveries
    SET state = 'pending', ended_at = NULL, tries = 0, next_attempt_at = now(),
        pending_since = now(), give_up_reason = NULL
    WHERE endpoint_id = $1 AND created_at >= $2 AND (state = 'failed' OR $3 AND state = 'delivered')";

#[async_trait]
impl DeliveryStore for PostgresStore {
    async fn delivery_recorded(&self) {
        self.recorded.notified().await;
    }

    async fn lease_deliveries(
        &self,
        policy: &LeasePolicy,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        let busy: Vec<i64> = policy.busy.iter().map(|id| id.0).collect();
        let query = self
            .rows(LEASE)
            .bind(i64::from(policy.limit))
            .bind(seconds(policy.lease))
            .bind(busy)
            .bind(policy.healthy_only);
        let found: Vec<LeasedRow> = self.fetch_all(query).await?;
        rows::all(found)
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<AttemptRecorded, StoreError> {
        let endpoint = delivery.endpoint.endpoint_id.0;
        let attempt = i32::try_from(delivery.attempt).unwrap_or(i32::MAX);
        let (state, wait) = outcome.next.state_and_wait();
        self.transaction(async |tx| {
            self.sql(END_ATTEMPT)
                .bind(delivery.id.0)
                .bind(attempt)
                .bind(i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX))
                .bind(outcome.sent.result.as_str())
                .bind(outcome.sent.status_code.map(i32::from))
                .execute(&mut *tx)
                .await?;
            let ended = self
                .sql(END_DELIVERY)
                .bind(delivery.id.0)
                .bind(attempt)
                .bind(state)
                .bind(seconds(wait))
                .bind(outcome.give_up_reason().map(|reason| reason.as_str()))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            let mut circuit = CircuitChange::Unchanged;
            match outcome.sent.result.verdict() {
                verdict @ (Verdict::Delivered | Verdict::GiveUp) => {
                    let delivered = verdict == Verdict::Delivered;
                    let changed = self
                        .sql(if delivered { WORKED } else { GONE })
                        .bind(endpoint)
                        .execute(&mut *tx)
                        .await?
                        .rows_affected();
                    if delivered && delivery.is_probe && changed > 0 {
                        circuit = CircuitChange::Closed;
                    }
                }
                Verdict::TryAgain => {
                    let row: Option<CircuitRow> = self
                        .rows(CIRCUIT)
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
                        self.sql(FAILED)
                            .bind(endpoint)
                            .bind(i32::try_from(now.failures).unwrap_or(i32::MAX))
                            .bind(i32::try_from(now.pauses).unwrap_or(i32::MAX))
                            .bind(pause.map(seconds))
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
        let query = self
            .sql(GIVE_UP)
            .bind(seconds(after))
            .bind(i64::from(batch));
        self.execute(query).await
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        let query = self
            .rows(DELIVERIES)
            .bind(filter.endpoint.map(|id| id.0))
            .bind(filter.state.map(|state| state.as_str()))
            .bind(filter.before.map(|id| id.0))
            .bind(i64::from(filter.limit));
        let found: Vec<DeliveryRow> = self.fetch_all(query).await?;
        rows::all(found)
    }

    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        let found: Vec<DeliveryAttemptRow> = self.fetch_all(self.rows(ATTEMPTS).bind(id.0)).await?;
        rows::all(found)
    }

    async fn replay(&self, replay: Replay) -> Result<u64, StoreError> {
        self.transaction(async |tx| {
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
        self.with_timeout(async {
            let mut deleted = 0;
            for (state, keep) in [("delivered", keep_delivered), ("failed", keep_failed)] {
                let prune = self.sql(PRUNE).bind(state).bind(seconds(keep));
                deleted += self.execute(prune.bind(i64::from(batch))).await?;
            }
            let orphans = self.sql(PRUNE_ORPHANS).bind(i64::from(batch));
            Ok(deleted + self.execute(orphans).await?)
        })
        .await
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        self.transaction(async |tx| {
            let row: DeliveryCountsRow = self.rows(COUNTS).fetch_one(&mut *tx).await?;
            Ok(row.into())
        })
        .await
    }
}
