//! Writes heartbeats.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::error::connecting;
use crate::store::statement::Statement;
use crate::store::workers::Beat;
use async_trait::async_trait;
use sqlx::{ConnectOptions as _, Connection as _};

#[async_trait]
impl Beat for PostgresStore {
    /// Over a connection of its own. It is put back only after a heartbeat that got through: one that
    /// failed, or was given up by the caller, is replaced by the next one.
    async fn beat(&self, beat: Statement) -> Result<(), StoreError> {
        self.with_timeout(async {
            let mut kept = self.heartbeat_connection.lock().await;
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.options.connect().await.map_err(connecting)?,
            };
            let begun = connection.begin_with(self.begin.clone()).await;
            let mut tx = begun.map_err(connecting)?;
            beat.execute(&mut self.shared(&mut *tx)).await?;
            tx.commit().await?;
            *kept = Some(connection);
            Ok(())
        })
        .await
    }
}
