//! Deliveries to webhooks, and the circuits of their endpoints.
//!
//! Deliveries are locked before their endpoint.

use super::dialect::{after, before, each, now, own, postgres_only};
use super::rows;
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, execute, fetch_all, read, transaction, within};
use super::statement::{Sql, Value, earlier, later};
use super::webhook_rows::{
    CircuitRow, DeliveryAttemptRow, DeliveryCountsRow, DeliveryRow, LeasedRow,
};
use crate::domain::circuit::{AfterFailure, Circuit};
use crate::domain::webhook::Verdict;
use crate::domain::{DeliveryId, EndpointId};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::{
    AttemptOutcome, AttemptRecorded, CircuitChange, Delivery, DeliveryAttempt, DeliveryCounts,
    DeliveryFilter, DeliveryStore, LeasePolicy, LeasedDelivery, Replay,
};
use async_trait::async_trait;
use std::time::Duration;

/// How each database leases deliveries that are due.
#[async_trait]
pub(super) trait LeaseDeliveries {
    /// Takes at most one delivery of each endpoint, so that none displaces the others; the order among equals
    /// is random. An endpoint whose circuit is open gets nothing until its next probe.
    async fn lease(&self, policy: &LeasePolicy) -> Result<Vec<LeasedRow>, StoreError>;
}

const END_ATTEMPT: Sql = both!(
    "UPDATE " own!(webhook_attempts) " SET duration_ms = $3, result = $4, http_status = $5, cause = $6
     WHERE delivery_id = $1 AND attempt = $2"
);

/// A delivered message stays delivered, also when another attempt has begun by now, or when it was given up
/// by its age while it was being sent.
const END_DELIVERY: Sql = both!(
    "UPDATE " own!(webhook_deliveries)
    " SET state = $3, ended_at = CASE WHEN $3 <> 'pending' THEN " now!() " END, give_up_reason = $5,
        next_attempt_at = " after!("$4")
    " WHERE id = $1 AND (state = 'pending' AND (attempts = $2 OR $3 = 'delivered')
                         OR state = 'failed' AND give_up_reason = 'age' AND $3 = 'delivered')"
);

/// `$2`: whether it was the probe. Another one that was under way when the circuit opened leaves it open: the receiver
/// may have asked to wait.
const WORKED: Sql = both!(
    "UPDATE " own!(webhook_endpoints) " SET failures = 0, circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
     WHERE id = $1 AND (failures > 0 OR circuit_pauses > 0) AND ($2 OR circuit_pauses = 0)"
);

const CIRCUIT: Sql = both!(
    "SELECT id, CAST(failures AS bigint) AS failures, CAST(circuit_pauses AS bigint) AS circuit_pauses
     FROM " own!(webhook_endpoints) " WHERE id = $1" postgres_only!(" FOR NO KEY UPDATE")
);

/// The next probe of `FAILED`.
macro_rules! next_probe {
    ($db:ident) => {
        each!(
            $db "clock_timestamp() + make_interval(secs => $4)",
            "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $4)"
        )
    };
}

/// `$4`: time of the next probe, relative to now; NULL: unchanged. `$5`: a later one stays.
const FAILED: Sql = both!(
    "UPDATE " own!(webhook_endpoints) " SET failures = $2, circuit_pauses = $3,
        circuit_opened_at = CASE WHEN $3 > 0 THEN coalesce(circuit_opened_at, " now!() ") END,
        circuit_probe_at = CASE WHEN $5 THEN " each!("greatest", "max") "(circuit_probe_at, " next_probe!() ")
                                ELSE coalesce(" next_probe!() ", circuit_probe_at) END
     WHERE id = $1"
);

const GONE: Sql = both!(
    "UPDATE " own!(webhook_endpoints)
    " SET failures = failures + 1, enabled = false, disabled_reason = 'gone', circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL
     WHERE id = $1 AND enabled"
);

/// Also for disabled endpoints, so that their pending deliveries are bounded, too.
const GIVE_UP: Sql = Sql {
    postgres: "
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
        FROM old WHERE d.id = old.id",
    sqlite: sql_for!(
        sqlite "UPDATE verifyd_webhook_deliveries
        SET state = 'failed', give_up_reason = 'age', ended_at = " now!() " WHERE id IN (
            SELECT d.id FROM verifyd_webhook_endpoints e CROSS JOIN verifyd_webhook_deliveries d
                ON d.endpoint_id = e.id
            WHERE d.state = 'pending' AND d.pending_since < " before!("$1") " LIMIT $2)"
    ),
};

const PRUNE: Sql = both!(
    "DELETE FROM " own!(webhook_deliveries) " WHERE id IN (
        SELECT id FROM " own!(webhook_deliveries) " WHERE state = $1 AND ended_at < " before!("$2")
    " ORDER BY ended_at LIMIT $3" postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

/// Recorded by a run that was completed while its endpoint was being removed.
const PRUNE_ORPHANS: Sql = both!(
    "DELETE FROM " own!(webhook_deliveries) " WHERE id IN (
        SELECT d.id FROM " own!(webhook_deliveries) " d WHERE d.state = 'pending'
        AND NOT EXISTS (SELECT 1 FROM " own!(webhook_endpoints) " e WHERE e.id = d.endpoint_id)
        LIMIT $1" postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

const COUNTS: Sql = both!(
    "SELECT (SELECT count(*) FROM " own!(webhook_deliveries) " WHERE state = 'pending') AS pending,
            f.failed, f.failed_by_age, o.oldest_pending_seconds, o.open_circuits
     FROM (SELECT count(*) AS failed,
                  count(*) FILTER (WHERE give_up_reason = 'age') AS failed_by_age
           FROM " own!(webhook_deliveries) " WHERE state = 'failed') f,
          (SELECT " each!("extract(epoch FROM now() - min(", "(julianday('now') - julianday(min(")
          "e.since) FILTER (WHERE e.enabled)" each!(")::float8", ")) * 86400.0")
          " AS oldest_pending_seconds,
                  count(*) FILTER (WHERE e.enabled AND e.circuit_pauses > 0) AS open_circuits
           FROM (SELECT e.enabled, e.circuit_pauses, (
                     SELECT min(d.pending_since) FROM " own!(webhook_deliveries) " d
                     WHERE d.endpoint_id = e.id AND d.state = 'pending') AS since
                 FROM " own!(webhook_endpoints) " e) e) o"
);

const DELIVERIES: Sql = both!(
    "SELECT d.id, d.endpoint_id, d.message_id, d.operation_run_id, d.state,
            CAST(d.attempts AS bigint) AS attempts, d.created_at, d.ended_at, " each!("greatest", "max")
    "(d.next_attempt_at, coalesce(e.circuit_probe_at, d.next_attempt_at)) AS next_attempt_at,
            d.give_up_reason, a.result, CAST(a.http_status AS bigint) AS http_status, a.cause
     FROM " own!(webhook_deliveries) " d LEFT JOIN " own!(webhook_attempts) " a
         ON a.delivery_id = d.id AND a.attempt = d.attempts
         LEFT JOIN " own!(webhook_endpoints) " e ON e.id = d.endpoint_id
     WHERE ($1 IS NULL OR d.endpoint_id = $1) AND ($2 IS NULL OR d.state = $2)
       AND ($3 IS NULL OR d.id < $3) ORDER BY d.id DESC LIMIT $4"
);

/// The columns of a `DeliveryAttemptRow`.
macro_rules! attempt_columns {
    ($($db:ident)?) => {
        "a.delivery_id, CAST(a.attempt AS bigint) AS attempt, a.started_at,
         CAST(a.duration_ms AS bigint) AS duration_ms, a.result,
         CAST(a.http_status AS bigint) AS http_status, a.cause"
    };
}

const ATTEMPTS: Sql = both!(
    "SELECT " attempt_columns!() " FROM " own!(webhook_attempts) " a WHERE a.delivery_id = $1 ORDER BY a.attempt"
);

/// Among the last attempts of the newest deliveries of the endpoint that were tried. One may be under way.
const LAST_FAILURE: Sql = both!(
    "SELECT " attempt_columns!() "
     FROM (SELECT id, attempts FROM " own!(webhook_deliveries)
    "      WHERE endpoint_id = $1 AND attempts > 0 ORDER BY id DESC LIMIT 100) d
          JOIN " own!(webhook_attempts) " a ON a.delivery_id = d.id AND a.attempt >= d.attempts - 1
     WHERE a.result <> 'delivered' ORDER BY a.started_at DESC LIMIT 1"
);

/// Sets a delivery back to its beginning.
macro_rules! replay {
    ($db:ident) => {
        sql_for!(
            $db "UPDATE " own!(webhook_deliveries)
            " SET state = 'pending', ended_at = NULL, tries = 0, give_up_reason = NULL,
                 next_attempt_at = " now!() ", pending_since = " now!()
        )
    };
}

const REPLAY_ONE: Sql = both!(replay!() " WHERE id = $1 AND state <> 'pending'");

const REPLAY_SINCE: Sql = both!(
    replay!() " WHERE endpoint_id = $1 AND created_at >= $2
                AND (state = 'failed' OR $3 AND state = 'delivered')"
);

#[async_trait]
impl<S: SqlStore + LeaseDeliveries> DeliveryStore for S {
    async fn delivery_recorded(&self) {
        self.in_process().recorded.notified().await;
    }

    async fn lease_deliveries(
        &self,
        policy: &LeasePolicy,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        rows::all(self.lease(policy).await?)
    }

    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<AttemptRecorded, StoreError> {
        let endpoint = delivery.endpoint.endpoint_id.0;
        let duration = i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX);
        let (state, wait) = outcome.next.state_and_wait();
        transaction(self, async |tx| {
            let attempt = END_ATTEMPT
                .bind(delivery.id.0)
                .bind(delivery.attempt)
                .bind(duration)
                .bind(outcome.sent.result.as_str())
                .bind(outcome.sent.status_code)
                .bind(outcome.sent.cause.as_deref());
            attempt.execute(tx).await?;
            let end = END_DELIVERY
                .bind(delivery.id.0)
                .bind(delivery.attempt)
                .bind(state)
                .bind(later(wait))
                .bind(outcome.give_up_reason().map(|reason| reason.as_str()));
            let ended = end.execute(tx).await?;
            let mut circuit = CircuitChange::Unchanged;
            match outcome.sent.result.verdict() {
                Verdict::Delivered => {
                    let worked = WORKED.bind(endpoint).bind(delivery.is_probe);
                    let changed = worked.execute(tx).await?;
                    if delivery.is_probe && changed > 0 {
                        circuit = CircuitChange::Closed;
                    }
                }
                Verdict::GiveUp => {
                    GONE.bind(endpoint).execute(tx).await?;
                }
                Verdict::TryAgain => {
                    let row: Option<CircuitRow> = CIRCUIT.bind(endpoint).fetch_optional(tx).await?;
                    if let Some(row) = row {
                        let mut now = Circuit::try_from(row)?;
                        let asked = outcome.sent.retry_after.unwrap_or_default();
                        let after = now.fail(delivery.is_probe, asked, &outcome.circuit);
                        let pause = match after {
                            AfterFailure::Unchanged => None,
                            AfterFailure::Opens(pause)
                            | AfterFailure::StaysOpen(pause)
                            | AfterFailure::Waits(pause) => Some(pause),
                        };
                        let failed = FAILED
                            .bind(endpoint)
                            .bind(i32::try_from(now.failures).unwrap_or(i32::MAX))
                            .bind(i32::try_from(now.pauses).unwrap_or(i32::MAX))
                            .bind(Value::Later(pause))
                            .bind(matches!(after, AfterFailure::Waits(_)));
                        failed.execute(tx).await?;
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
        execute(self, GIVE_UP.bind(earlier(after)).bind(batch)).await
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        let deliveries = DELIVERIES
            .bind(filter.endpoint.map(|id| id.0))
            .bind(filter.state.map(|state| state.as_str()))
            .bind(filter.before.map(|id| id.0))
            .bind(filter.limit);
        rows::all(fetch_all::<DeliveryRow>(self, deliveries).await?)
    }

    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        rows::all(fetch_all::<DeliveryAttemptRow>(self, ATTEMPTS.bind(id.0)).await?)
    }

    async fn last_failure(
        &self,
        endpoint: EndpointId,
    ) -> Result<Option<DeliveryAttempt>, StoreError> {
        let found = fetch_all::<DeliveryAttemptRow>(self, LAST_FAILURE.bind(endpoint.0)).await?;
        Ok(rows::all(found)?.pop())
    }

    async fn replay(&self, replay: Replay) -> Result<u64, StoreError> {
        let replay = match replay {
            Replay::One(id) => REPLAY_ONE.bind(id.0),
            Replay::Since {
                endpoint,
                since,
                delivered_too,
            } => REPLAY_SINCE
                .bind(endpoint.0)
                .bind(since)
                .bind(delivered_too),
        };
        execute(self, replay).await
    }

    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError> {
        let prune = async {
            let mut deleted = 0;
            for (state, keep) in [("delivered", keep_delivered), ("failed", keep_failed)] {
                let prune = PRUNE.bind(state).bind(earlier(keep)).bind(batch);
                deleted += execute(self, prune).await?;
            }
            Ok(deleted + execute(self, PRUNE_ORPHANS.bind(batch)).await?)
        };
        within(self.in_process().call_timeout, prune).await
    }

    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError> {
        let row: DeliveryCountsRow = read(self, async |tx| COUNTS.fetch_one(tx).await).await?;
        Ok(row.into())
    }
}
