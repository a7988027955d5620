//! The permission inventory: changed rows are written, and one row per tenant has the time of the last
//! refresh and a digest that shows whether anything can have changed.

use super::PostgresStore;
use super::bounds::fits;
use crate::domain::TenantId;
use crate::domain::permission::StoredPermission;
use crate::ports::inventory::{InventoryFreshness, InventoryStore};
use crate::ports::store_error::StoreError;
use crate::store::completion::{DIGEST_STANDS_SECONDS, InventoryRow};
use crate::store::rows::{self, FreshnessRow, PermissionRow};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::PgConnection;
use std::borrow::Borrow;
use std::collections::HashSet;

/// Whether `i`, the inventory of a tenant, was read by the run that it names. An id may have been used again,
/// for a tenant or for a run.
macro_rules! is_of_its_run {
    () => {
        $crate::store::sql::sql!(
            "EXISTS (SELECT FROM operation_runs p WHERE p.id = i.operation_run_id AND p.type = "
            $crate::store::postgres::run_type!()
            " AND p.tenant_id = i.tenant_id AND p.completed_at::timestamptz
                  BETWEEN i.refreshed_at - " $crate::store::postgres::reused_ids::slack!()
            " AND i.refreshed_at + " $crate::store::postgres::reused_ids::slack!() ")"
        )
    };
}
pub(super) use is_of_its_run;

/// Runs first: its row lock serialises refreshes of one tenant, so that the next statement sees the inventory
/// as the previous refresh left it. Locks in the order of the tenants, as every writer does. Returns which
/// inventories have to be compared with the stored rows: those with another digest, those of a run that no
/// longer exists, and from time to time (`$5`, seconds) all, since others may write the rows, too.
const FRESHNESS: &str = sql!(
    "INSERT INTO verifyd.tenant_inventory AS i
        (tenant_id, operation_run_id, refreshed_at, source, digest, compared_at)
    SELECT d.tenant_id, d.run_id, now(), d.source, d.digest, now()
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
        AS d (tenant_id, run_id, source, digest)
    ORDER BY d.tenant_id
    ON CONFLICT (tenant_id) DO UPDATE SET operation_run_id = excluded.operation_run_id,
        refreshed_at = excluded.refreshed_at, source = excluded.source, digest = excluded.digest,
        compared_at = CASE WHEN i.digest = excluded.digest
                                AND i.operation_run_id <> excluded.operation_run_id AND "
    is_of_its_run!() "                          AND i.compared_at > now() - make_interval(secs => $5)
                           THEN i.compared_at ELSE now() END
    RETURNING i.tenant_id, i.compared_at = now()"
);

/// Only rows that differ reach the INSERT; `ON CONFLICT` alone would lock, and so write, all of them.
/// `removed_at` is not compared: it is set when a grant disappears, kept while it is absent, and removed when
/// it returns.
const REFRESH: &str = "
    WITH fresh AS (
        SELECT d.tenant_id, f.permission_key, f.status, f.details
        FROM unnest($1::bigint[], $2::jsonb[]) AS d (tenant_id, entries),
             jsonb_to_recordset(d.entries) AS f(permission_key text, status text, details jsonb)
    ), stored AS (
        SELECT tenant_id, permission_key, status,
               CASE WHEN jsonb_typeof(details) = 'object' THEN details ELSE '{}' END AS details
        FROM tenant_permissions WHERE tenant_id = ANY($1)
    ), removal AS (
        SELECT jsonb_build_object('removed_at',
            to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) AS mark
    ), changed AS (
        SELECT f.tenant_id, f.permission_key, f.status,
               CASE WHEN f.status <> 'missing' THEN f.details
                    WHEN s.status = 'granted' THEN f.details || removal.mark
                    WHEN s.details ? 'removed_at'
                        THEN f.details || jsonb_build_object('removed_at', s.details -> 'removed_at')
                    ELSE f.details END AS details
        FROM fresh f CROSS JOIN removal LEFT JOIN stored s USING (tenant_id, permission_key)
        WHERE s.permission_key IS NULL OR s.status IS DISTINCT FROM f.status
              OR s.details - 'removed_at' <> f.details
        UNION ALL
        SELECT s.tenant_id, s.permission_key, 'missing', s.details || removal.mark
        FROM stored s CROSS JOIN removal
        WHERE s.status = 'granted'
              AND NOT EXISTS (SELECT FROM fresh f WHERE f.tenant_id = s.tenant_id
                                                    AND f.permission_key = s.permission_key)
    )
    INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at)
    SELECT tenant_id, permission_key, status, details, now() FROM changed
    ORDER BY tenant_id, permission_key
    ON CONFLICT (tenant_id, permission_key) DO UPDATE
    SET status = excluded.status, details = excluded.details,
        last_checked_at = excluded.last_checked_at";

/// Rows with invalid values are left out, and so are details that are too large.
const PERMISSIONS: &str = sql!(
    "SELECT tenant_id, permission_key, status, CASE WHEN " fits!("details", "65536")
    " THEN details END AS details, last_checked_at::timestamptz AS last_checked_at
     FROM tenant_permissions WHERE tenant_id = $1 AND status IN ('granted', 'missing')
         AND permission_key IS NOT NULL
         AND octet_length(permission_key) <= 300 ORDER BY permission_key COLLATE \"C\" LIMIT 1000"
);

/// Its run may have been pruned. One that was completed at another time is not its run.
const READ_FRESHNESS: &str = sql!(
    "SELECT i.tenant_id, i.operation_run_id, i.refreshed_at, i.source
     FROM verifyd.tenant_inventory i WHERE i.tenant_id = $1 AND (" is_of_its_run!()
    " OR NOT EXISTS (SELECT FROM operation_runs p WHERE p.id = i.operation_run_id))"
);

#[async_trait]
impl InventoryStore for PostgresStore {
    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError> {
        let found: Vec<PermissionRow> = self
            .fetch_all(self.rows(PERMISSIONS).bind(tenant.0))
            .await?;
        rows::all(found)
    }

    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        let found: Option<FreshnessRow> = self
            .fetch_optional(self.rows(READ_FRESHNESS).bind(tenant.0))
            .await?;
        Ok(found.map(Into::into))
    }
}

impl PostgresStore {
    /// Refreshes at most one inventory for each tenant.
    pub(super) async fn refresh_inventories<R: Borrow<InventoryRow>>(
        &self,
        tx: &mut PgConnection,
        rows: &[R],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = || rows.iter().map(Borrow::borrow);
        let compared: Vec<(i64, bool)> = self
            .rows(FRESHNESS)
            .bind(rows().map(|r| r.tenant).collect::<Vec<i64>>())
            .bind(rows().map(|r| r.run).collect::<Vec<i64>>())
            .bind(rows().map(|r| r.source).collect::<Vec<&str>>())
            .bind(rows().map(InventoryRow::digest).collect::<Vec<&str>>())
            .bind(DIGEST_STANDS_SECONDS)
            .fetch_all(&mut *tx)
            .await?;
        let due: HashSet<i64> = compared
            .into_iter()
            .filter_map(|(tenant, due)| due.then_some(tenant))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let due = || rows().filter(|r| due.contains(&r.tenant));
        let entries: Vec<_> = due().map(InventoryRow::entries).collect::<Result<_, _>>()?;
        self.sql(REFRESH)
            .bind(due().map(|r| r.tenant).collect::<Vec<i64>>())
            .bind(entries)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }
}
