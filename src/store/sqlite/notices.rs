//! What this process completes is told within it; nobody listens to a file.

use super::SqliteStore;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

#[async_trait]
impl CompletionEventStore for SqliteStore {
    fn completions(&self) -> broadcast::Receiver<CompletionEvent> {
        self.completions.subscribe()
    }

    async fn announce(&self, _notices: &[CompletionEvent]) -> Result<(), StoreError> {
        Ok(())
    }
}
