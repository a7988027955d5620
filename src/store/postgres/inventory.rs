//! The permission inventory: what changed is written, and one row per tenant that says how fresh
//! the whole is.

use super::{PostgresStore, Tx, commit};
use crate::domain::permission::{InventoryRefresh, StoredPermission};
use crate::domain::{RunId, TenantId};
use crate::ports::store::{InventoryFreshness, StoreError};
use crate::store::completion::inventory_entries;
use crate::store::error::from_sqlx;
use crate::store::rows::{self, FreshnessRow, PermissionRow};

/// Comes first: its row lock makes refreshes of one tenant take turns, so that the statement after
/// it sees the inventory as the one before left it.
const FRESHNESS: &str = "\
    INSERT INTO verifyd.tenant_inventory (tenant_id, operation_run_id, refreshed_at, source) \
    VALUES ($1, $2, now(), $3) \
    ON CONFLICT (tenant_id) DO UPDATE SET operation_run_id = excluded.operation_run_id, \
        refreshed_at = excluded.refreshed_at, source = excluded.source";

/// Only rows that differ get as far as the INSERT; `ON CONFLICT` alone would lock, and so write,
/// all of them. `removed_at` is no difference: it says since when a grant has been gone, is set
/// when it goes, kept while it stays away, and dropped when it comes back.
const REFRESH: &str = "\
    WITH stored AS ( \
        SELECT permission_key, status, \
               CASE WHEN jsonb_typeof(details) = 'object' THEN details ELSE '{}' END AS details \
        FROM tenant_permissions WHERE tenant_id = $1 \
    ), fresh AS ( \
        SELECT permission_key, status, details \
        FROM jsonb_to_recordset($2) AS f(permission_key text, status text, details jsonb) \
    ), removal AS ( \
        SELECT jsonb_build_object('removed_at', \
            to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) AS mark \
    ), changed AS ( \
        SELECT f.permission_key, f.status, \
               CASE WHEN f.status <> 'missing' THEN f.details \
                    WHEN s.status = 'granted' THEN f.details || removal.mark \
                    WHEN s.details ? 'removed_at' \
                        THEN f.details || jsonb_build_object('removed_at', s.details -> 'removed_at') \
                    ELSE f.details END AS details \
        FROM fresh f CROSS JOIN removal LEFT JOIN stored s USING (permission_key) \
        WHERE s.permission_key IS NULL OR s.status IS DISTINCT FROM f.status \
              OR s.details - 'removed_at' <> f.details \
        UNION ALL \
        SELECT s.permission_key, 'missing', s.details || removal.mark \
        FROM stored s CROSS JOIN removal \
        WHERE s.status = 'granted' \
              AND NOT EXISTS (SELECT FROM fresh f WHERE f.permission_key = s.permission_key) \
    ) \
    INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at) \
    SELECT $1, permission_key, status, details, now() FROM changed ORDER BY permission_key \
    ON CONFLICT (tenant_id, permission_key) DO UPDATE \
    SET status = excluded.status, details = excluded.details, \
        last_checked_at = excluded.last_checked_at";

const PERMISSIONS: &str = "\
    SELECT tenant_id, permission_key, status, details, \
           last_checked_at::timestamptz AS last_checked_at \
    FROM tenant_permissions WHERE tenant_id = $1 ORDER BY permission_key COLLATE \"C\"";

const READ_FRESHNESS: &str = "\
    SELECT tenant_id, operation_run_id, refreshed_at, source \
    FROM verifyd.tenant_inventory WHERE tenant_id = $1";

impl PostgresStore {
    pub(super) async fn refresh_inventory(
        &self,
        tx: &mut Tx,
        run: RunId,
        refresh: &InventoryRefresh,
    ) -> Result<(), StoreError> {
        self.sql(FRESHNESS)
            .bind(refresh.tenant_id.0)
            .bind(run.0)
            .bind(refresh.source.as_str())
            .execute(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        self.sql(REFRESH)
            .bind(refresh.tenant_id.0)
            .bind(inventory_entries(refresh)?)
            .execute(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        Ok(())
    }

    pub(super) async fn list_permissions(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<StoredPermission>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<PermissionRow> = self
            .rows(PERMISSIONS)
            .bind(tenant.0)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        rows::all(found)
    }

    pub(super) async fn read_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<FreshnessRow> = self
            .rows(READ_FRESHNESS)
            .bind(tenant.0)
            .fetch_optional(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(found.map(Into::into))
    }
}
