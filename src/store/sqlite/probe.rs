//! The tests of `doctor`.

use super::{SqliteStore, now};
use crate::domain::RunId;
use crate::domain::attempt::AttemptEnd;
use crate::ports::probe::{
    CLAIMING, COMPLETING, DiskSpace, ProbeStore, RECORDING, RELEASING, TableSize,
};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::claims::release_in;
use crate::store::probe;
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

impl SqliteStore {
    /// Does with a run what `serve` does with it. A trigger of the application may refuse each step.
    async fn try_run(&self, tx: &mut SqliteConnection) -> Result<(), StoreError> {
        let record = Statement::from(probe::RECORD);
        let recorded: Result<Option<(i64, bool)>, _> = record.fetch_optional(&mut &mut *tx).await;
        let run = match recorded {
            Ok(Some((run, _))) => RunId(run),
            Ok(None) => {
                let checkable = Statement::from(probe::CHECKABLE);
                let checkable: Option<(i64,)> = checkable.fetch_optional(&mut &mut *tx).await?;
                probe::not_kept_out(checkable.map_or(0, |(count,)| count))?;
                return self.try_claiming(tx).await;
            }
            Err(StoreError::Refused(why)) if why.ends_with(NOT_UNIQUE) => {
                return self.try_claiming(tx).await;
            }
            Err(error) => return Err(probe::refused(RECORDING, error)),
        };
        let claimed = self.claim_prepared(tx, probe::claim(run)).await;
        let claim = probe::accepted(CLAIMING, probe::TRIGGER, claimed)?;
        let mut inner = tx.begin().await?;
        let released = release_in(&mut &mut *inner, &claim, AttemptEnd::Shutdown, None).await;
        let released = released.map(|released| released.then_some(()));
        probe::accepted(RELEASING, probe::TRIGGER, released)?;
        inner.rollback().await?;
        for request in probe::completions(&claim)? {
            let mut inner = tx.begin().await?;
            let completed = self
                .complete_runs(&mut inner, std::slice::from_ref(&request))
                .await;
            let completed = completed.map(|completed| completed.contains(run).then_some(()));
            probe::accepted(COMPLETING, probe::TRIGGER, completed)?;
            inner.rollback().await?;
        }
        Ok(())
    }

    /// Claims a run of another producer, if one is queued: see the same of PostgreSQL.
    async fn try_claiming(&self, tx: &mut SqliteConnection) -> Result<(), StoreError> {
        let queued = Statement::from(probe::QUEUED);
        let queued: Option<(i64,)> = queued.fetch_optional(&mut &mut *tx).await?;
        if let Some((run,)) = queued {
            let claimed = self.claim_prepared(tx, probe::claim(RunId(run))).await;
            claimed.map_err(|error| probe::refused(CLAIMING, error))?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProbeStore for SqliteStore {
    async fn try_writing(&self) -> Result<(), StoreError> {
        self.transaction_with_end(async |tx| {
            sqlx::query(WRITTEN).execute(&mut *tx).await?;
            self.try_run(tx).await?;
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
