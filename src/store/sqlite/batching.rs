//! The transactions of batches in SQLite. The calls of a batch share the writer and the wait for the disk:
//! see `store::batching`.

use super::{SqliteStore, Tx};
use crate::ports::store_error::StoreError;
use crate::store::batching::Batching;
use std::sync::Arc;

impl Batching for SqliteStore {
    type Connection = Tx;

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The file is on this machine, so no timeout is needed.
    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn acquire(&self) -> Result<Tx, StoreError> {
        self.begin().await
    }

    fn keeps_connection(&self, _batches: u32) -> bool {
        false
    }
}
