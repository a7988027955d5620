//! Wake-ups: signals that start a sweep before its interval ends.

use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The signal that a run may be queued. Signals that nobody waits for yet count as one.
#[derive(Debug, Default)]
pub struct WakeSignal(Notify);

impl WakeSignal {
    /// Wakes the waiter, or the next one that waits.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a wake-up.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

/// Whether notifications of the database arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "listening")]
pub enum Listening {
    /// A notification to oneself arrived.
    Received,
    /// None arrived: a pooler in between shares connections.
    NotReceived,
    /// None can arrive: the connection that listens is one of another database.
    Elsewhere,
    /// Turned off, or a database that has no notifications.
    Off,
}

/// Why a bare INSERT into `operation_runs` notifies nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TriggerFault {
    Missing,
    /// By `ALTER TABLE … DISABLE TRIGGER`, or enabled for replicas only. The name is quoted as an identifier.
    Disabled {
        trigger: String,
    },
    /// `session_replication_role` is `replica` in sessions that may insert runs.
    Replica {
        trigger: String,
        /// Whose setting that is.
        by: String,
        /// The statements that take it back.
        reset: String,
    },
}

/// Notifications of the database. They are hints, like those of the queue; the sweep finds what they miss. A
/// database without notifications leaves everything as it is here.
#[async_trait]
pub trait WakeStore: Send + Sync {
    /// Sets `signal` whenever a run may have been queued, until `stop`; survives every error of the
    /// server. Where there is nothing to listen to, it only waits for `stop`.
    async fn listen(&self, _signal: &WakeSignal, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Wakes every process that listens.
    async fn wake(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tries once, over a connection of its own, whether notifications arrive.
    async fn try_listening(&self) -> Result<Listening, StoreError> {
        Ok(Listening::Off)
    }

    /// Returns why the trigger on `operation_runs` does not notify, if it does not.
    async fn trigger_fault(&self) -> Result<Option<TriggerFault>, StoreError> {
        Ok(None)
    }
}
