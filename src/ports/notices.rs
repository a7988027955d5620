//! What is said when a run is completed, after the commit. At most once; nobody may rely on it.

use crate::domain::notice::Notice;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

/// Notices that wait for a slow reader; what is older is lost to it.
pub const NOTICES_KEPT: usize = 4096;

/// Completions, as they are committed.
#[async_trait]
pub trait NoticeStore: Send + Sync {
    /// What this process completes from now on.
    fn completions(&self) -> broadcast::Receiver<Notice>;

    /// Tells those who listen to the database, in one statement. Does nothing where nobody can.
    async fn announce(&self, notices: &[Notice]) -> Result<(), StoreError>;
}
