//! Completion events, published after the commit, at most once.

use crate::domain::completion_event::CompletionEvent;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

/// Events kept for a slow subscriber; older ones are dropped.
pub const MAX_PENDING_EVENTS: usize = 4096;

/// Completion events of this process, after their commit.
#[async_trait]
pub trait CompletionEventStore: Send + Sync {
    /// Subscribes to the runs that this process completes from now on.
    fn completions(&self) -> broadcast::Receiver<CompletionEvent>;

    /// Publishes events to the subscribers of the database, in one statement. Does nothing where the
    /// database cannot notify.
    async fn publish_completions(&self, _events: &[CompletionEvent]) -> Result<(), StoreError> {
        Ok(())
    }
}
