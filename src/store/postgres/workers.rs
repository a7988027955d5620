//! Writes heartbeats.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::statement::Statement;
use crate::store::workers::Beat;
use async_trait::async_trait;
use sqlx::Connection as _;
use std::time::Instant;

#[async_trait]
impl Beat for PostgresStore {
    /// Over a connection of its own. It is put back only after a heartbeat that got through: one that
    /// failed, or was given up by the caller, is replaced by the next one, as is one to a former primary.
    async fn beat(&self, beat: Statement) -> Result<(), StoreError> {
        self.with_timeout(async {
            let mut kept = self.heartbeat_connection.lock().await;
            let former = kept.take();
            let (mut connection, opened) =
                match former.filter(|(_, opened)| !self.renewal.is_before(opened.elapsed())) {
                    Some(former) => former,
                    None => {
                        let opened = Instant::now();
                        let connected = self.connector.connect().await;
                        (connected.map_err(|error| self.refused(error))?, opened)
                    }
                };
            let begun = connection.begin_with(self.begin.clone()).await;
            let mut tx = begun.map_err(|error| self.refused(error))?;
            beat.execute(&mut self.shared(&mut *tx)).await?;
            tx.commit().await?;
            *kept = Some((connection, opened));
            Ok(())
        })
        .await
    }
}
