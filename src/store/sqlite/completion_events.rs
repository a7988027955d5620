//! Completion events stay within the process: SQLite has no subscribers.

use super::SqliteStore;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

#[async_trait]
impl CompletionEventStore for SqliteStore {
    fn completions(&self) -> broadcast::Receiver<CompletionEvent> {
        self.in_process.completions.subscribe()
    }

    async fn publish_completions(&self, _events: &[CompletionEvent]) -> Result<(), StoreError> {
        Ok(())
    }
}
