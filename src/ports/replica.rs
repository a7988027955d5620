//! A replica of the database: it only reads, and lags.

use crate::domain::WorkerId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// What a server says of itself as a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Whether it only follows a primary.
    pub is_replica: bool,
    /// The latest heartbeat of the worker that it has.
    pub last_heartbeat_at: Option<DateTime<Utc>>,
}

/// Tells what a server has of its primary. What a database does that has no replicas.
#[async_trait]
pub trait ReplicaStore: Send + Sync {
    /// Returns the heartbeat that the server has of this worker: no other database has one, as its name is random.
    async fn replayed(&self, _worker: &WorkerId) -> Result<Replayed, StoreError> {
        Ok(Replayed::default())
    }
}
