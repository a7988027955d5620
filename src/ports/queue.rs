//! The queue of hints. It may lose, repeat and reorder them: the database decides.

use crate::domain::RunId;
use crate::domain::job::Hint;
use crate::domain::notice::Notice;
use async_trait::async_trait;
use serde::Serialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What kept a queue from doing its work.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The server cannot be reached or answers with an error; later it may work.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The bounded in-process queue holds as many hints as it may.
    #[error("the queue is full ({capacity} hints)")]
    Full { capacity: usize },
}

/// What became of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Acknowledged: the run was worked on, or is nobody's business here.
    Done,
    /// Not understood: it is counted and put aside, never delivered again.
    Rejected,
}

/// Receives hints. Never fails: what cannot be done now is found again by the reconciler.
#[async_trait]
pub trait HintHandler: Send + Sync + 'static {
    /// Works on the run that the hint names; returns when that run is done or given back.
    async fn handle(&self, hint: Hint) -> Handled;
}

/// A payload that was put aside because it is no hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedHint {
    /// Id of its delivery, cleaned.
    pub task_id: String,
    /// What is wrong with it. Never quotes the payload.
    pub reason: String,
}

/// How the consumer is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueHealth {
    /// Time since the consumer last showed that it moves; null before its first sign.
    pub last_tick: Option<Duration>,
    /// Whether the last contact with the server succeeded.
    pub connected: bool,
    /// How often the consumer had to be started again.
    pub restarts: u64,
    /// Payloads that were not hints.
    pub rejected: u64,
}

/// A queue of hints.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// `redis` or `in_process`.
    fn kind(&self) -> &'static str;

    /// Sends a hint for each, each as a delivery of its own with a fresh task id. All or none of a
    /// single hint; of several, a prefix may have been sent when this fails.
    async fn send(&self, hints: &[Hint]) -> Result<(), QueueError>;

    /// Hints that wait and that no consumer has fetched yet.
    async fn depth(&self) -> Result<u64, QueueError>;

    /// Consumes until `stop`, with at most `concurrency` hints in work at a time, surviving every
    /// error of the server. When `stop` fires, nothing more is fetched, what is in work finishes,
    /// then this returns.
    async fn consume(
        &self,
        handler: std::sync::Arc<dyn HintHandler>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError>;

    /// How the consumer is doing.
    fn health(&self) -> QueueHealth;

    /// How many payloads were put aside, and a sample of at most `most` of them. A queue that does
    /// not keep them counts those of this process.
    async fn rejected(&self, most: u32) -> Result<(u64, Vec<RejectedHint>), QueueError> {
        let _ = most;
        Ok((self.health().rejected, Vec::new()))
    }

    /// One round trip to the server.
    async fn ping(&self) -> Result<(), QueueError>;

    /// Sends a hint and takes it back before anybody can see it, over a connection of its own. Fails with the
    /// server's own answer, at once.
    async fn try_sending(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Tells those who listen to the server of completed runs. Does nothing where nobody can.
    async fn announce(&self, _notices: &[Notice]) -> Result<(), QueueError> {
        Ok(())
    }

    /// A hint for each of these runs, without trace context.
    async fn send_runs(&self, runs: &[RunId]) -> Result<(), QueueError> {
        let hints: Vec<Hint> = runs.iter().copied().map(Hint::new).collect();
        self.send(&hints).await
    }
}
