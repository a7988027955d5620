//! SQLite has no notifications: what another process inserts is found by the sweep.

use super::SqliteStore;
use crate::ports::store_error::StoreError;
use crate::ports::wake::{Listening, WakeSignal, WakeStore};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

#[async_trait]
impl WakeStore for SqliteStore {
    async fn listen(&self, _bell: &WakeSignal, stop: CancellationToken) {
        stop.cancelled().await;
    }

    async fn wake(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn try_listening(&self) -> Result<Listening, StoreError> {
        Ok(Listening::Off)
    }
}
