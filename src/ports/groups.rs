//! Keeps a worker to the runs of its group of workspaces.

use crate::domain::RunId;
use crate::domain::groups::GroupMembers;
use crate::ports::runs::RunCounts;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// Where there are groups, each worker claims, dispatches and chooses only runs of its own. Dead leases are everybody's:
/// any sweep queues their runs again, and the sweep of their group dispatches them.
#[async_trait]
pub trait GroupStore: Send + Sync {
    /// Keeps claims, sweeps and fair queuing of this store to the runs of these workspaces. Only the first call counts.
    fn serve_group(&self, group: GroupMembers);

    /// Leaves those of these runs that are queued and of another group to that group's sweep, whatever hints were sent for
    /// them. Returns them.
    async fn hand_over(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError>;

    /// Counts the runs of a group, as [`counts`](crate::ports::runs::RunStore::counts) does all runs.
    async fn counts_of_group(&self, group: &GroupMembers) -> Result<RunCounts, StoreError>;
}
