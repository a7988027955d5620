//! Fair queuing: the oldest run of each tenant, also while another tenant's runs fill the queue. And
//! whether a run waits at all.

use crate::domain::{RunId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// The oldest queued run of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestRun {
    pub tenant: TenantId,
    pub run: RunId,
}

/// Reads in the order of tenants, at a cost that depends on how many of them wait and not on how many
/// runs do.
#[async_trait]
pub trait FairQueuingStore: Send + Sync {
    /// One run of each tenant that has any queued and due, but for those in `except`; in the order of
    /// the tenants' ids, `most` of them, beginning after `after`. Nothing where the database lacks the
    /// index for it: `inspect` says so. A run without a tenant is never among them.
    ///
    /// All tenants that have no connection count as one: who records runs may invent them.
    async fn oldest_run_of_each_tenant(
        &self,
        after: Option<TenantId>,
        except: &[TenantId],
        most: u32,
    ) -> Result<Vec<OldestRun>, StoreError>;

    /// Which of these are queued.
    async fn still_queued(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError>;
}
