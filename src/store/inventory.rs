//! Reads the permission inventory.

use super::bounds::fits;
use super::dialect::{at, each, is_about, own, run_type};
use super::rows::{self, FreshnessRow, PermissionRow};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, fetch_optional, read};
use super::statement::Sql;
use crate::domain::TenantId;
use crate::domain::permission::StoredPermission;
use crate::ports::inventory::{InventoryFreshness, InventoryStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// Whether an inventory was read by the run that it names. An id may have been used again, for a tenant or for
/// a run.
macro_rules! is_read_by_its_run {
    ($db:ident $i:literal) => {
        $crate::store::sql::sql_for!(
            $db "EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = " $i
            ".operation_run_id AND p.type = " run_type!() " AND p.tenant_id = " $i ".tenant_id AND "
            is_about!("p.completed_at", concat!($i, ".refreshed_at")) ")"
        )
    };
}
pub(super) use is_read_by_its_run;

/// Rows with invalid values are left out, and so are details that are too large.
const PERMISSIONS: Sql = both!(
    "SELECT tenant_id, permission_key, status, CASE WHEN " fits!("details", "65536")
    " THEN details END AS details, " at!("last_checked_at") " AS last_checked_at
     FROM tenant_permissions WHERE tenant_id = $1 AND status IN ('granted', 'missing')
         AND permission_key IS NOT NULL "
    each!(
        "AND octet_length(permission_key) <= 300 ORDER BY permission_key COLLATE \"C\" LIMIT 1000",
        "ORDER BY permission_key"
    )
);

/// Its run may have been pruned. One that was completed at another time is not its run.
const READ_FRESHNESS: Sql = both!(
    "SELECT i.tenant_id, i.operation_run_id, i.refreshed_at, i.source
     FROM " own!(tenant_inventory) " i WHERE i.tenant_id = $1 AND (" is_read_by_its_run!("i")
    " OR NOT EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = i.operation_run_id))"
);

/// Returns what is stored of the tenant, without rows that cannot be read.
pub(super) async fn permissions_in(
    connection: &mut dyn SqlConnection,
    tenant: TenantId,
) -> Result<Vec<StoredPermission>, StoreError> {
    let found = PERMISSIONS
        .bind(tenant.0)
        .fetch_all::<PermissionRow>(connection);
    Ok(rows::readable(found.await?))
}

#[async_trait]
impl<S: SqlStore> InventoryStore for S {
    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError> {
        read(self, async |tx| permissions_in(tx, tenant).await).await
    }

    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        let found: Option<FreshnessRow> =
            fetch_optional(self, READ_FRESHNESS.bind(tenant.0)).await?;
        Ok(found.map(Into::into))
    }
}
