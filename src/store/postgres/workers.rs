//! Writes heartbeats.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::statement::Statement;
use crate::store::workers::HeartbeatWriter;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Connection as _;

#[async_trait]
impl HeartbeatWriter for PostgresStore {
    /// Over a connection of its own. It is put back only after a heartbeat that got through: one that failed, or whose
    /// statements were given up by the caller, is replaced by the next one.
    async fn write_heartbeat(&self, heartbeat: Statement) -> Result<(DateTime<Utc>,), StoreError> {
        self.with_timeout(async {
            let mut reserved = self.heartbeat_connection.lock().await;
            let taken = reserved.take(self).await;
            let mut open = taken.map_err(|error| self.refused(error))?;
            let begun = open.connection.begin_with(self.begin.clone()).await;
            let mut tx = begun.map_err(|error| self.refused(error))?;
            let written_at = heartbeat.fetch_one(&mut self.shared(&mut *tx)).await?;
            tx.commit().await?;
            reserved.put_back(open);
            Ok(written_at)
        })
        .await
    }
}
