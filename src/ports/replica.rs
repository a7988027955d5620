//! A replica of the database: it only reads, and lags.

use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// Tells how far a server is behind its primary. What a database does that is no replica.
#[async_trait]
pub trait ReplicaStore: Send + Sync {
    /// Returns how old the server's data is; `None`: it cannot tell. `quiet`: how long a primary may commit nothing at
    /// all, so that a replica which has everything seems older than it is.
    async fn lag(&self, _quiet: Duration) -> Result<Option<Duration>, StoreError> {
        Ok(Some(Duration::ZERO))
    }
}
