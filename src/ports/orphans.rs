//! Releases orphans: attempts that the database attributes to a worker that does not process them.

use crate::domain::{RunId, WorkerId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use uuid::Uuid;

/// An attempt that the database takes its worker to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    pub run: RunId,
    pub token: Uuid,
}

/// Finds and releases orphaned attempts.
#[async_trait]
pub trait OrphanStore: Send + Sync {
    /// The open attempts of a worker, in the order of their runs.
    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError>;

    /// `running` → `queued`: this worker does not work on these. Their attempts end as
    /// `worker_lost`. Returns the runs that are queued now; an attempt that is not open any more,
    /// or of another worker, is left as it is.
    async fn release_orphaned(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError>;
}
