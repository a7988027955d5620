//! Leases deliveries to webhooks that are due.

use super::{PostgresStore, seconds};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::LeasePolicy;
use crate::store::webhook_deliveries::LeaseDeliveries;
use crate::store::webhook_rows::LeasedRow;
use async_trait::async_trait;

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

#[async_trait]
impl LeaseDeliveries for PostgresStore {
    async fn lease(&self, policy: &LeasePolicy) -> Result<Vec<LeasedRow>, StoreError> {
        let busy: Vec<i64> = policy.busy.iter().map(|id| id.0).collect();
        let lease = self
            .rows::<LeasedRow>(LEASE)
            .bind(i64::from(policy.limit))
            .bind(seconds(policy.lease))
            .bind(busy)
            .bind(policy.healthy_only);
        self.transaction(async |tx| Ok(lease.fetch_all(tx).await?))
            .await
    }
}
