//! Fair queuing: which run of which tenant is next.

use super::indexes::FAIR_QUEUING;
use super::{PostgresStore, run_type};
use crate::domain::{RunId, TenantId};
use crate::ports::fair_queuing::{FairQueuingStore, OldestRun};
use crate::ports::store_error::StoreError;
use crate::store::bounds::is_claimable;
use crate::store::sql::sql;
use async_trait::async_trait;

/// Whether the tenant has a connection: what a producer cannot write.
macro_rules! has_connection {
    () => {
        "EXISTS (SELECT FROM provider_connections c WHERE c.tenant_id = w.tenant)"
    };
}

/// Skips from tenant to tenant along the index `operation_runs_check_turns`. `$1`: start after this tenant,
/// `$2`: tenants to leave out, `$3`: how many. Where a tenant's first runs are not due yet, a few more are
/// read, not all.
///
/// A producer may write any tenant. Between two tenants that have a connection at most one that has none is
/// read, however many there are, and only the first of all such tenants is returned; none while a run of one
/// is in flight.
const OLDEST_OF_TENANTS: &str = sql!(
    "WITH RECURSIVE waiting (tenant, strangers) AS (
        SELECT $1::bigint, (SELECT count(*) FROM unnest($2::bigint[]) AS e (tenant)
                            WHERE NOT EXISTS (SELECT FROM provider_connections c
                                              WHERE c.tenant_id = e.tenant))
        UNION ALL
        SELECT (SELECT r.tenant_id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.tenant_id > CASE WHEN w.tenant = $1 OR " has_connection!()
    " THEN w.tenant
            ELSE (SELECT c.tenant_id - 1 FROM provider_connections c WHERE c.tenant_id > w.tenant
                  ORDER BY c.tenant_id LIMIT 1) END ORDER BY r.tenant_id LIMIT 1),
            w.strangers + CASE WHEN w.tenant = $1 OR " has_connection!() " THEN 0 ELSE 1 END
        FROM waiting w WHERE w.tenant IS NOT NULL
    )
    SELECT w.tenant, f.id FROM waiting w CROSS JOIN LATERAL (
        SELECT first.id FROM (SELECT r.id, r.started_at, " is_claimable!()
    " AS is_claimable FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.tenant_id = w.tenant ORDER BY r.id LIMIT 8) first
        WHERE first.is_claimable AND (first.started_at IS NULL
            OR NOT EXISTS (SELECT FROM verifyd.run_deliveries d
                          WHERE d.run_id = first.id AND d.not_before > now()))
        ORDER BY first.id LIMIT 1
    ) f WHERE w.tenant > $1 AND (w.strangers = 0 OR " has_connection!()
    ") AND w.tenant <> ALL($2) LIMIT $3"
);

/// The runs are found by their ids, without the index of queued runs.
const STILL_QUEUED: &str = sql!(
    "SELECT r.id FROM operation_runs r WHERE r.id = ANY($1) AND r.type = " run_type!()
    " AND r.status || '' = 'queued'"
);

#[async_trait]
impl FairQueuingStore for PostgresStore {
    async fn still_queued(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        self.transaction(async |tx| {
            let queued: Vec<i64> = self
                .scalar(STILL_QUEUED)
                .bind(runs.iter().map(|run| run.0).collect::<Vec<i64>>())
                .fetch_all(&mut *tx)
                .await?;
            Ok(queued.into_iter().map(RunId).collect())
        })
        .await
    }

    async fn oldest_run_of_each_tenant(
        &self,
        after: Option<TenantId>,
        except: &[TenantId],
        most: u32,
    ) -> Result<Vec<OldestRun>, StoreError> {
        let except: Vec<i64> = except.iter().map(|tenant| tenant.0).collect();
        self.transaction(async |tx| {
            // Without it every step would read all that is queued.
            let indexed: bool = self
                .scalar(FAIR_QUEUING.there)
                .bind("operation_runs")
                .fetch_one(&mut *tx)
                .await?;
            let mut found: Vec<(i64, i64)> = Vec::new();
            if indexed {
                found = self
                    .rows(OLDEST_OF_TENANTS)
                    .bind(after.map_or(i64::MIN, |tenant| tenant.0))
                    .bind(&except)
                    .bind(i64::from(most))
                    .fetch_all(&mut *tx)
                    .await?;
            }
            Ok(found
                .into_iter()
                .map(|(tenant, run)| OldestRun {
                    tenant: TenantId(tenant),
                    run: RunId(run),
                })
                .collect())
        })
        .await
    }
}
