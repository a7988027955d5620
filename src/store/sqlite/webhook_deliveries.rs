//! Leases deliveries to webhooks that are due.

use super::{SqliteStore, id_list, modifier, now, now_moved_by};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::LeasePolicy;
use crate::store::sql::sql;
use crate::store::webhook_deliveries::LeaseDeliveries;
use crate::store::webhook_rows::LeasedRow;
use async_trait::async_trait;

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

#[async_trait]
impl LeaseDeliveries for SqliteStore {
    async fn lease(&self, policy: &LeasePolicy) -> Result<Vec<LeasedRow>, StoreError> {
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
                    .bind(modifier('+', policy.lease))
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(NOTE).bind(&ids).execute(&mut *tx).await?;
            let leased = sqlx::query_as(LEASED).bind(&ids).fetch_all(&mut *tx);
            Ok(leased.await?)
        })
        .await
    }
}
