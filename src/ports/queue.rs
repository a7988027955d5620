//! The queue of hints. It may lose, repeat and reorder them: the database decides.

use crate::domain::completion_event::CompletionEvent;
use crate::domain::hint::Hint;
use crate::domain::{RunId, WorkspaceId};
use async_trait::async_trait;
use serde::Serialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The server cannot be reached or answers with an error; later it may work.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The bounded in-process queue is full.
    #[error("the queue is full ({capacity} hints)")]
    Full { capacity: usize },
}

/// Receives hints. Never fails: what cannot be done now is found again by the reconciler.
#[async_trait]
pub trait HintHandler: Send + Sync + 'static {
    /// Works on the run that the hint names; returns when that run is done or released.
    async fn handle(&self, hint: Hint);
}

/// A payload that is no hint. It is kept to be looked at, and never delivered again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Id of its delivery, cleaned.
    pub task_id: String,
    /// What is wrong. Never quotes the payload.
    pub reason: String,
}

/// The health of a queue's consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueHealth {
    /// Time since the consumer's last activity; `None` before its first.
    pub last_activity: Option<Duration>,
    /// Whether the last contact with the server succeeded.
    pub connected: bool,
    /// How often the consumer had to be started again.
    pub restarts: u64,
    /// Payloads that became dead letters.
    pub dead_letters: u64,
}

/// A queue of hints.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// `redis` or `in_process`.
    fn kind(&self) -> &'static str;

    /// Sends a hint for each, each as a delivery of its own with a fresh task id. All or none of a
    /// single hint; of several, a prefix may have been sent when this fails.
    async fn send(&self, hints: &[Hint]) -> Result<(), QueueError>;

    /// Sends hints for runs of this workspace to the queue of its group.
    async fn send_for(&self, _workspace: WorkspaceId, hints: &[Hint]) -> Result<(), QueueError> {
        self.send(hints).await
    }

    /// Returns the number of hints that no consumer has fetched yet.
    async fn depth(&self) -> Result<u64, QueueError>;

    /// Consumes until `stop`, with at most `concurrency` handlers at a time, and recovers from every error of
    /// the server. When `stop` fires, it fetches nothing more, and returns when all handlers have.
    async fn consume(
        &self,
        handler: std::sync::Arc<dyn HintHandler>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError>;

    /// Returns the health of the consumer.
    fn health(&self) -> QueueHealth;

    /// Returns the number of dead letters, and a sample of at most `max`. A queue that does not store them
    /// counts those of this process.
    async fn dead_letters(&self, max: u32) -> Result<(u64, Vec<DeadLetter>), QueueError> {
        let _ = max;
        Ok((self.health().dead_letters, Vec::new()))
    }

    /// Returns the server's version; `None` where there is no server.
    async fn server_version(&self) -> Result<Option<String>, QueueError> {
        Ok(None)
    }

    /// Returns what a person can do about an error of this queue; `None` where that is not known.
    fn remedy(&self, _error: &QueueError) -> Option<String> {
        None
    }

    /// Returns why Sentinels do not lead to the primary, for each that does not. Empty where none are used.
    async fn unusable_sentinels(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes one round trip to the server.
    async fn ping(&self) -> Result<(), QueueError>;

    /// Tries whether the queue takes hints, over a connection of its own: sends one and takes it back before
    /// any consumer can see it. Fails at once, with the server's own error.
    async fn try_sending(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Tries what [`Queue::consume`] needs of the server, in the same way, without taking a hint.
    async fn try_consuming(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Publishes completion events to the subscribers of the server. Does nothing where the queue has none.
    async fn publish_completions(&self, _events: &[CompletionEvent]) -> Result<(), QueueError> {
        Ok(())
    }

    /// Sends a hint for each of these runs, without trace context.
    async fn send_runs(&self, runs: &[RunId]) -> Result<(), QueueError> {
        let hints: Vec<Hint> = runs.iter().copied().map(Hint::new).collect();
        self.send(&hints).await
    }
}
