//! Deletes completed runs that are old enough.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;
use std::time::Duration;

/// Which completed runs to delete, and how many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Runs that were completed longer ago than this, by the database's clock.
    pub older_than: Duration,
    /// Largest number of runs to delete in one transaction.
    pub batch: u32,
}

/// What one call of `prune` has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub runs: u64,
    pub attempts: u64,
    pub deliveries: u64,
    pub acknowledgements: u64,
    /// Where to go on: nothing is left to delete up to this run. None when nothing is left at all.
    #[serde(skip)]
    pub last: Option<RunId>,
}

impl Pruned {
    /// Counts these, too.
    pub fn add(&mut self, more: &Self) {
        self.runs += more.runs;
        self.attempts += more.attempts;
        self.deliveries += more.deliveries;
        self.acknowledgements += more.acknowledgements;
    }

    /// Attempts of runs that were not there, by their runs. The last run may have more of them.
    pub(crate) fn stray_attempts(runs: &[i64]) -> Self {
        Self {
            attempts: runs.len() as u64,
            last: runs.iter().max().map(|id| RunId(id - 1)),
            ..Self::default()
        }
    }
}

/// Deletes runs, a batch at a time.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Deletes completed runs with an id above `after`, in the order of their ids, with their
    /// attempts, deliveries and acknowledgements. Never the latest report of a connection, and never
    /// a run that an onboarding session points to.
    async fn prune(&self, policy: &PrunePolicy, after: Option<RunId>)
    -> Result<Pruned, StoreError>;

    /// Deletes ended attempts of runs that no longer exist, with an id above `after`, up to the limit:
    /// another writer deleted the runs.
    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError>;

    /// How many runs `prune` would delete.
    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError>;
}
