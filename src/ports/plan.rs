//! Reads the stored inventories of many connections.

use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::plan::PlanSubject;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// Which connections to compare, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFilter {
    pub binding: Binding,
    /// Key of the module's provider.
    pub provider: String,
    /// Keys of the inventory that matter.
    pub keys: Vec<String>,
    /// Only ids above this one (paging).
    pub after: Option<ConnectionId>,
    pub limit: u32,
}

/// Reads for plans.
#[async_trait]
pub trait PlanStore: Send + Sync {
    /// Returns connections with the stored inventories of their tenants.
    async fn plan_subjects(&self, filter: &PlanFilter) -> Result<Vec<PlanSubject>, StoreError>;
}
