//! The tests of `doctor`.

use super::{SqliteStore, now};
use crate::domain::RunId;
use crate::domain::attempt::AttemptEnd;
use crate::ports::claims::Claim;
use crate::ports::probe::{DiskSpace, ProbeStore, RECORDING, TableSize, Writing};
use crate::ports::schema::SchemaStore as _;
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::claims::{ClaimRequest, release_in};
use crate::store::completion::{CompletionRequest, InventoryRow};
use crate::store::probe::{self, Recorded, RunSteps};
use crate::store::sql::sql;
use crate::store::statement::Statement;
use crate::store::tables::APPLICATION_TABLES;
use async_trait::async_trait;
use sqlx::{Connection as _, SqliteConnection};

const WRITTEN: &str = sql!(
    "INSERT INTO verifyd_workers (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ('doctor', 'doctor', 0, 0, " now!() ", " now!() ")"
);

/// SQLITE_CONSTRAINT_UNIQUE: the application allows one run of a connection at a time, and one is there.
const NOT_UNIQUE: &str = "(SQLite 2067)";

/// Sizes with indexes. It reads the whole file.
const TABLE_SIZES: &str = "SELECT m.tbl_name, sum(d.pgsize) AS bytes
    FROM dbstat d JOIN sqlite_master m ON m.name = d.name
    WHERE d.aggregate = TRUE GROUP BY m.tbl_name ORDER BY bytes DESC, 1";

/// A run in a transaction that is rolled back.
struct Steps<'a> {
    store: &'a SqliteStore,
    tx: &'a mut SqliteConnection,
}

#[async_trait]
impl RunSteps for Steps<'_> {
    async fn record(&mut self) -> Result<Recorded, StoreError> {
        let mut inner = self.tx.begin().await?;
        let record = Statement::from(probe::RECORD);
        let recorded: Result<Option<(i64, bool)>, _> =
            record.fetch_optional(&mut &mut *inner).await;
        let error = match recorded {
            Ok(Some((run, _))) => {
                inner.commit().await?;
                return Ok(Recorded::Run(RunId(run)));
            }
            Ok(None) => {
                inner.commit().await?;
                let checkable = Statement::from(probe::CHECKABLE);
                let checkable: Option<(i64,)> =
                    checkable.fetch_optional(&mut &mut *self.tx).await?;
                return Ok(probe::kept_out(checkable.map_or(0, |(count,)| count)));
            }
            Err(error) => error,
        };
        // A trigger may have ended the transaction (ROLLBACK): what came next would stay.
        if inner.rollback().await.is_err() {
            return Err(probe::refused(RECORDING, error));
        }
        match error {
            StoreError::Refused(why) if why.ends_with(NOT_UNIQUE) => Ok(Recorded::Nothing),
            error => Recorded::refused(error),
        }
    }

    async fn queued(&mut self) -> Result<Option<RunId>, StoreError> {
        let queued = Statement::from(probe::QUEUED);
        let queued: Option<(i64,)> = queued.fetch_optional(&mut &mut *self.tx).await?;
        Ok(queued.map(|(run,)| RunId(run)))
    }

    async fn claim(&mut self, request: ClaimRequest) -> Result<Option<Claim>, StoreError> {
        self.store.claim_prepared(self.tx, request).await
    }

    async fn release(&mut self, claim: &Claim) -> Result<bool, StoreError> {
        let mut inner = self.tx.begin().await?;
        let released = release_in(&mut &mut *inner, claim, AttemptEnd::Shutdown, None).await?;
        inner.rollback().await?;
        Ok(released)
    }

    async fn complete(&mut self, request: &CompletionRequest) -> Result<bool, StoreError> {
        let mut inner = self.tx.begin().await?;
        let completed = self
            .store
            .complete_runs(&mut inner, std::slice::from_ref(request))
            .await?;
        let is_completed = completed.contains(request.run);
        inner.rollback().await?;
        Ok(is_completed)
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Option<(i64, i64)>, StoreError> {
        statement.fetch_optional(&mut &mut *self.tx).await
    }

    async fn execute(&mut self, statement: Statement) -> Result<(), StoreError> {
        let mut inner = self.tx.begin().await?;
        statement.execute(&mut &mut *inner).await?;
        inner.rollback().await?;
        Ok(())
    }

    async fn write_inventories(&mut self, rows: &[InventoryRow]) -> Result<(), StoreError> {
        let mut inner = self.tx.begin().await?;
        let written = self.store.write_inventories_beside(&mut inner, rows);
        written.await?;
        inner.rollback().await?;
        Ok(())
    }
}

impl SqliteStore {
    async fn try_run(&self, tx: &mut SqliteConnection) -> Result<Writing, StoreError> {
        probe::try_run(&mut Steps { store: self, tx }).await
    }
}

#[async_trait]
impl ProbeStore for SqliteStore {
    async fn try_writing(&self) -> Result<Writing, StoreError> {
        // Its error names the file.
        self.check_writable().await?;
        self.transaction_with_end(async |tx| {
            sqlx::query(WRITTEN).execute(&mut *tx).await?;
            let writing = self.try_run(tx).await?;
            Ok(End::Rollback(writing))
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
