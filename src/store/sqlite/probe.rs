//! The tests of `doctor`.

use super::{SqliteStore, now};
use crate::ports::probe::{DiskSpace, ProbeStore};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::sql::sql;
use async_trait::async_trait;

const WRITTEN: &str = sql!(
    "INSERT INTO verifyd_workers (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ('doctor', 'doctor', 0, 0, " now!() ", " now!() ")"
);

#[async_trait]
impl ProbeStore for SqliteStore {
    async fn try_writing(&self) -> Result<(), StoreError> {
        self.transaction_with_end(async |tx| {
            sqlx::query(WRITTEN).execute(&mut *tx).await?;
            Ok(End::Rollback(()))
        })
        .await
    }

    fn disk_space(&self) -> Result<Option<DiskSpace>, StoreError> {
        let space = rustix::fs::statvfs(&self.file)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", self.file.display())))?;
        Ok(Some(DiskSpace {
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        }))
    }
}
