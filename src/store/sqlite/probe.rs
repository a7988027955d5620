//! The tests of `doctor`.

use super::{SqliteStore, now};
use crate::domain::ConnectionId;
use crate::ports::claims::Claim;
use crate::ports::probe::{DiskSpace, ProbeStore, RefusedClaim, TableSize, Writing};
use crate::ports::schema::SchemaStore as _;
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::claims::ClaimRequest;
use crate::store::completion::{Completed, CompletionRequest, InventoryRow};
use crate::store::probe::{self, Keeper, RunSteps};
use crate::store::sql::sql;
use crate::store::sql_store::SqlConnection;
use crate::store::statement::Sql;
use crate::store::tables::APPLICATION_TABLES;
use async_trait::async_trait;
use sqlx::SqliteConnection;
use std::time::Duration;

const WRITTEN: &str = sql!(
    "INSERT INTO verifyd_workers (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ('doctor', 'doctor', 0, 0, " now!() ", " now!() ")"
);

/// SQLITE_CONSTRAINT_UNIQUE: the application allows one run of a connection at a time, and one is there.
const NOT_UNIQUE: &str = "2067";

/// Triggers of the application on runs, and whether INSERTs and whether UPDATEs fire them: by their statements, which may
/// name the other besides.
const TRIGGERS: &str = r"
    SELECT name, sql LIKE '%insert%on%operation_runs%', sql LIKE '%update%on%operation_runs%' FROM sqlite_master
    WHERE type = 'trigger' AND lower(tbl_name) = 'operation_runs' AND name NOT LIKE 'verifyd\_%' ESCAPE '\' ORDER BY 1";

const NOW: &str = sql!("SELECT " now!());

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
    fn connection(&mut self) -> Box<dyn SqlConnection + '_> {
        Box::new(&mut *self.tx)
    }

    async fn insert(
        &mut self,
        record: Sql,
        connection: ConnectionId,
    ) -> Result<Option<(i64, bool)>, sqlx::Error> {
        sqlx::query_as(record.sqlite)
            .bind(connection.0)
            .fetch_optional(&mut *self.tx)
            .await
    }

    async fn is_named(&mut self, refusal: &sqlx::Error) -> Result<bool, StoreError> {
        let code = refusal.as_database_error().and_then(|error| error.code());
        Ok(code.as_deref() == Some(NOT_UNIQUE))
    }

    async fn claim(&mut self, request: ClaimRequest) -> Result<Option<Claim>, StoreError> {
        self.store.claim_prepared(self.tx, request).await
    }

    async fn complete(&mut self, request: &CompletionRequest) -> Result<Completed, StoreError> {
        let requests = std::slice::from_ref(request);
        self.store.complete_runs(self.tx, requests).await
    }

    async fn refresh_inventory(&mut self, row: &InventoryRow) -> Result<(), StoreError> {
        let now: String = sqlx::query_scalar(NOW).fetch_one(&mut *self.tx).await?;
        let rows = [row];
        self.store.refresh_inventories(self.tx, &rows, &now).await
    }

    async fn triggers(&mut self) -> Result<Vec<(String, bool, bool)>, StoreError> {
        let triggers = sqlx::query_as(TRIGGERS);
        Ok(triggers.fetch_all(&mut *self.tx).await?)
    }
}

#[async_trait]
impl ProbeStore for SqliteStore {
    async fn try_writing(&self) -> Result<Writing, StoreError> {
        // Its error names the file.
        self.check_writable().await?;
        self.transaction_with_end(async |tx| {
            sqlx::query(WRITTEN).execute(&mut *tx).await?;
            let mut steps = Steps { store: self, tx };
            let keeper = Keeper::of(&mut steps).await?;
            let writing = probe::try_run(&mut steps, &keeper).await?;
            Ok(End::Rollback(writing))
        })
        .await
    }

    async fn refused_claims(
        &self,
        waited: Duration,
        report: &mut (dyn FnMut(RefusedClaim) + Send),
    ) -> Result<(), StoreError> {
        let mut has_ended = false;
        let tried = self.transaction_with_end(async |tx| {
            let steps = &mut Steps { store: self, tx };
            has_ended = probe::refused_claims(steps, waited, report).await?;
            Ok(End::Rollback(()))
        });
        let tried = tried.await;
        if has_ended { Ok(()) } else { tried }
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
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", self.file.display()).into()))?;
        Ok(Some(DiskSpace {
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        }))
    }
}
