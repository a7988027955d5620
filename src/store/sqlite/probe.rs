//! The tests of `doctor`.

use super::{SqliteStore, now};
use crate::ports::probe::{DiskSpace, ProbeStore, TableSize};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::sql::sql;
use crate::store::tables::APPLICATION_TABLES;
use async_trait::async_trait;

const WRITTEN: &str = sql!(
    "INSERT INTO verifyd_workers (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ('doctor', 'doctor', 0, 0, " now!() ", " now!() ")"
);

/// Sizes with indexes. It reads the whole file.
const TABLE_SIZES: &str = "SELECT m.tbl_name, sum(d.pgsize) AS bytes
    FROM dbstat d JOIN sqlite_master m ON m.name = d.name
    WHERE d.aggregate = TRUE GROUP BY m.tbl_name ORDER BY bytes DESC, 1";

#[async_trait]
impl ProbeStore for SqliteStore {
    async fn try_writing(&self) -> Result<(), StoreError> {
        self.transaction_with_end(async |tx| {
            sqlx::query(WRITTEN).execute(&mut *tx).await?;
            Ok(End::Rollback(()))
        })
        .await
    }

    async fn table_sizes(&self) -> Result<Vec<TableSize>, StoreError> {
        let sizes: Vec<(String, i64)> = sqlx::query_as(TABLE_SIZES)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let sizes = sizes.into_iter().filter(|(table, _)| {
            table.starts_with("verifyd_") || APPLICATION_TABLES.contains(&table.as_str())
        });
        Ok(sizes
            .map(|(table, bytes)| TableSize {
                table,
                bytes,
                rows: None,
            })
            .collect())
    }

    fn disk_space(&self) -> Result<Option<DiskSpace>, StoreError> {
        let space = rustix::fs::statvfs(&self.file)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", self.file.display())))?;
        Ok(Some(DiskSpace {
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        }))
    }
}
