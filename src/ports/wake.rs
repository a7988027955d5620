//! What wakes the reconciler between two sweeps.

use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Rung when something may be queued. Rings before anybody waits are one ring.
#[derive(Debug, Default)]
pub struct Bell(Notify);

impl Bell {
    /// Wakes whoever waits, or the next one who does.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

/// Whether a bare INSERT is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "listening")]
pub enum Listening {
    /// A notification to oneself arrived.
    Heard,
    /// None arrived: there is a pooler in between that shares connections out.
    NotHeard,
    /// Turned off, or a database that has no notifications.
    Off,
}

/// Notifications of the database: hints, like those of the queue. The sweep finds what is missed.
#[async_trait]
pub trait WakeStore: Send + Sync {
    /// Rings whenever something may have been queued, until `stop`; survives every error of the
    /// server. Where there is nothing to listen to, it only waits for `stop`.
    async fn listen(&self, bell: &Bell, stop: CancellationToken);

    /// Rings wherever somebody listens.
    async fn wake(&self) -> Result<(), StoreError>;

    /// Whether notifications get through, tried once over a connection of its own.
    async fn try_listening(&self) -> Result<Listening, StoreError>;
}
