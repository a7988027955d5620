//! SQLite has no notifications: completion events stay within the process, and what another process inserts is
//! found by the sweep.

use super::SqliteStore;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::wake::WakeStore;
use async_trait::async_trait;
use tokio::sync::broadcast;

#[async_trait]
impl CompletionEventStore for SqliteStore {
    fn completions(&self) -> broadcast::Receiver<CompletionEvent> {
        self.in_process.completions.subscribe()
    }
}

#[async_trait]
impl WakeStore for SqliteStore {}
