//! Calls that share a transaction, and with it the writer's turn and the wait for the disk: see
//! `store::together`.
//!
//! Lists go into a statement as one JSON text. Nothing changes between two statements of a batch, so
//! what one of them has found is true for the next.

mod claims;
mod completions;
mod connections;

pub(super) use claims::ClaimRequest;
pub(super) use completions::CompletionRequest;
pub(super) use connections::StartRequest;

use super::{SqliteStore, Tx};
use crate::ports::store::StoreError;
use crate::store::together::{Batching, Places};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::types::Json;
use std::sync::Arc;

/// Readers that there must be for a lane to keep one.
const KEEPING_TAKES: u32 = 4;

impl Batching for SqliteStore {
    fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The file is on this machine: there is nobody who might not answer.
    async fn in_time<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }
}

/// To write.
impl Places<Tx> for SqliteStore {
    async fn place(&self) -> Result<Tx, StoreError> {
        self.begin().await
    }

    fn keeps(&self, _batches: u32) -> bool {
        false
    }
}

/// To read.
impl Places<PoolConnection<Sqlite>> for SqliteStore {
    async fn place(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.reader().await
    }

    fn keeps(&self, _batches: u32) -> bool {
        self.readers.options().get_max_connections() >= KEEPING_TAKES
    }
}

/// Rows for `json_each`.
pub(super) fn list<T: Serialize>(
    rows: impl Iterator<Item = T>,
) -> Result<Json<Box<RawValue>>, StoreError> {
    let rows: Vec<T> = rows.collect();
    to_raw_value(&rows)
        .map(Json)
        .map_err(|_| StoreError::Refused("what is to be stored cannot be written as JSON".into()))
}
