//! Fair queuing: the oldest run of each tenant, also while runs of another tenant fill the queue.

use crate::domain::{RunId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// The oldest queued run of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestRun {
    pub tenant: TenantId,
    pub run: RunId,
}

/// What a look at the tenants that wait has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldestRuns {
    pub runs: Vec<OldestRun>,
    /// The tenant after which the next look begins. `None`: no tenant is left, and it begins with the first one.
    pub next: Option<TenantId>,
}

/// Reads in the order of tenants, at a cost that depends on how many of them wait and not on how many
/// runs do.
#[async_trait]
pub trait FairQueuingStore: Send + Sync {
    /// Returns one run of each tenant that has due queued runs, except the tenants in `except`: at most
    /// `most`, in the order of the tenants' ids, after `after`. Returns none where the database lacks the
    /// index for it, which `inspect` reports. A run without a tenant is never among them.
    ///
    /// All tenants without a connection count as one, because a producer can invent tenants.
    ///
    /// Of a worker's group, if there are groups. Tenants of the others are passed one by one, so a look ends after 1,024
    /// tenants.
    async fn oldest_run_of_each_tenant(
        &self,
        after: Option<TenantId>,
        except: &[TenantId],
        most: u32,
    ) -> Result<OldestRuns, StoreError>;

    /// Which of these are queued.
    async fn still_queued(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError>;
}
