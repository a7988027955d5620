//! Completion events, published after the commit: at most once, so that nobody may rely on them.

use crate::domain::completion_event::CompletionEvent;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

/// Events that wait for a slow reader; it loses what is older.
pub const EVENTS_KEPT: usize = 4096;

/// The completions of this process, as they are committed.
#[async_trait]
pub trait CompletionEventStore: Send + Sync {
    /// Subscribes to what this process completes from now on.
    fn completions(&self) -> broadcast::Receiver<CompletionEvent>;

    /// Publishes events to those who listen to the database, in one statement. Does nothing where nobody
    /// can.
    async fn announce(&self, events: &[CompletionEvent]) -> Result<(), StoreError>;
}
