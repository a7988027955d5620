//! What this process completes is told within it; nobody listens to a file.

use super::SqliteStore;
use crate::domain::notice::Notice;
use crate::ports::notices::NoticeStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

#[async_trait]
impl NoticeStore for SqliteStore {
    fn completions(&self) -> broadcast::Receiver<Notice> {
        self.completions.subscribe()
    }

    async fn announce(&self, _notices: &[Notice]) -> Result<(), StoreError> {
        Ok(())
    }
}
