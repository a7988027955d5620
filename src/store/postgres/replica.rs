//! What a streaming replica has of its primary.

use super::PostgresStore;
use crate::domain::WorkerId;
use crate::ports::replica::{Replayed, ReplicaStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// `$1`: the worker. Whether the server is a replica, and the worker's latest heartbeat there. What was committed before
/// that heartbeat is there, too, as a replica replays commits in their order.
const REPLAYED: &str = "
    SELECT pg_is_in_recovery(), (SELECT beat_at FROM verifyd.workers WHERE worker_id = $1)";

#[async_trait]
impl ReplicaStore for PostgresStore {
    async fn replayed(&self, worker: &WorkerId) -> Result<Replayed, StoreError> {
        let (is_replica, last_heartbeat_at): (bool, Option<DateTime<Utc>>) = self
            .transaction(async |tx| {
                let replayed = self.rows(REPLAYED).bind(&worker.0).fetch_one(tx);
                Ok::<_, StoreError>(replayed.await?)
            })
            .await?;
        Ok(Replayed {
            is_replica,
            last_heartbeat_at,
        })
    }
}
