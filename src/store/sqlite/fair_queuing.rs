//! Fair queuing: which run of which tenant is next.

use super::{SqliteStore, now, run_type};
use crate::domain::{RunId, TenantId};
use crate::ports::fair_queuing::{FairQueuingStore, OldestRun};
use crate::ports::store_error::StoreError;
use crate::store::bounds::is_claimable;
use crate::store::sql::sql;
use async_trait::async_trait;

/// Whether the tenant has a connection.
macro_rules! has_connection {
    () => {
        "EXISTS (SELECT 1 FROM provider_connections c WHERE c.tenant_id = w.tenant)"
    };
}

/// Skips from tenant to tenant along the index `operation_runs_check_turns`. `$1`: start after this tenant,
/// `$2`: tenants to leave out, as JSON, `$3`: how many. Where a tenant's first runs are not due yet, a few
/// more are read, not all.
///
/// A producer may write any tenant. Between two tenants that have a connection at most one that has none is
/// read, however many there are, and only the first of all such tenants is returned; none while a run of one
/// is in flight.
const OLDEST_OF_TENANTS: &str = sql!(
    "WITH RECURSIVE waiting (tenant, strangers) AS (
        SELECT $1, (SELECT count(*) FROM json_each($2) e
                    WHERE NOT EXISTS (SELECT 1 FROM provider_connections c
                                      WHERE c.tenant_id = e.value))
        UNION ALL
        SELECT (SELECT r.tenant_id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.tenant_id > CASE WHEN w.tenant = $1 OR " has_connection!()
    " THEN w.tenant
            ELSE (SELECT c.tenant_id - 1 FROM provider_connections c WHERE c.tenant_id > w.tenant
                  ORDER BY c.tenant_id LIMIT 1) END ORDER BY r.tenant_id LIMIT 1),
            w.strangers + CASE WHEN w.tenant = $1 OR " has_connection!() " THEN 0 ELSE 1 END
        FROM waiting w WHERE w.tenant IS NOT NULL
    )
    SELECT tenant, run FROM (SELECT w.tenant AS tenant, (SELECT first.id FROM (
            SELECT r.id, r.started_at, " is_claimable!()
    " AS is_claimable FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.tenant_id = w.tenant ORDER BY r.id LIMIT 8) first
        WHERE first.is_claimable AND (first.started_at IS NULL
            OR NOT EXISTS (SELECT 1 FROM verifyd_run_deliveries d
                          WHERE d.run_id = first.id AND d.not_before > " now!()
    ")) ORDER BY first.id LIMIT 1) AS run FROM waiting w
        WHERE w.tenant > $1 AND (w.strangers = 0 OR " has_connection!()
    ") AND w.tenant NOT IN (SELECT value FROM json_each($2)))
    WHERE run IS NOT NULL LIMIT $3"
);

const STILL_QUEUED: &str = sql!(
    "SELECT r.id FROM json_each($1) w CROSS JOIN operation_runs r ON r.id = w.value
     WHERE r.status = 'queued' AND r.type = " run_type!()
);

#[async_trait]
impl FairQueuingStore for SqliteStore {
    async fn still_queued(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let queued: Vec<i64> = sqlx::query_scalar(STILL_QUEUED)
            .bind(serde_json::Value::from(runs).to_string())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(queued.into_iter().map(RunId).collect())
    }

    async fn oldest_run_of_each_tenant(
        &self,
        after: Option<TenantId>,
        except: &[TenantId],
        most: u32,
    ) -> Result<Vec<OldestRun>, StoreError> {
        let except: Vec<i64> = except.iter().map(|tenant| tenant.0).collect();
        let found: Vec<(i64, i64)> = sqlx::query_as(OLDEST_OF_TENANTS)
            .bind(after.map_or(i64::MIN, |tenant| tenant.0))
            .bind(serde_json::Value::from(except).to_string())
            .bind(i64::from(most))
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(found
            .into_iter()
            .map(|(tenant, run)| OldestRun {
                tenant: TenantId(tenant),
                run: RunId(run),
            })
            .collect())
    }
}
