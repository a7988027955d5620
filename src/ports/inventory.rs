//! Reads the permission inventory of a tenant.

use crate::domain::permission::StoredPermission;
use crate::domain::{RunId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;

/// When a tenant's inventory was last read, and by which run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InventoryFreshness {
    pub tenant_id: TenantId,
    pub operation_run_id: RunId,
    pub refreshed_at: DateTime<Utc>,
    pub source: String,
}

/// Reads inventories. [`CompletionStore`](crate::ports::claims::CompletionStore) writes them.
#[async_trait]
pub trait InventoryStore: Send + Sync {
    /// The inventory of a tenant, by permission key.
    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError>;

    /// When the inventory of a tenant was last read.
    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError>;
}
