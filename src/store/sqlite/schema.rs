//! Migrations, and access to the library.

use super::{SqliteStore, of_file};
use crate::domain::report::redact::clean;
use crate::ports::schema::{Migrated, PendingMigration, SchemaStore};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::tables::APPLICATION_TABLES;
use crate::store::{migration_plan, migrations};
use async_trait::async_trait;
use sqlx::SqliteConnection;
use std::collections::BTreeSet;

const MIGRATIONS_TABLE: &str = "verifyd_schema_migrations";

/// Characters of the names of another application's tables that are shown.
const NAMES_LENGTH: usize = 200;

const TABLES: &str = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name";

const OWNED: &str = "SELECT table_name FROM verifyd_owned_tables";

const VERSIONS: &str = "SELECT version FROM verifyd_schema_migrations WHERE success";

/// Writes to any file, and is rolled back. `BEGIN IMMEDIATE` alone succeeds on one that may only be read.
const WRITE: &str = "PRAGMA user_version = 0";

#[async_trait]
impl SchemaStore for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.transaction(async |tx| {
            refuse_foreign(tx).await?;
            let before = applied(tx).await?;
            migrations::migrator(migrations::sqlite(), MIGRATIONS_TABLE)
                .run_direct(None, &mut *tx, false)
                .await?;
            let after = applied(tx).await?;
            let owned = tables(tx)
                .await?
                .into_iter()
                .filter(|name| {
                    name.starts_with("verifyd_") || APPLICATION_TABLES.contains(&name.as_str())
                })
                .collect();
            Ok(Migrated {
                applied: after.difference(&before).copied().collect(),
                version: after.last().copied().unwrap_or_default(),
                owned,
                foreign: Vec::new(),
            })
        })
        .await
        .inspect(|migrated| migrations::log_applied(&migrations::sqlite(), migrated))
    }

    async fn pending_migrations(&self) -> Result<Vec<PendingMigration>, StoreError> {
        let mut reader = self.reader().await?;
        refuse_foreign(&mut reader).await?;
        let applied = applied(&mut reader).await?;
        Ok(migration_plan::pending(&applied, &[], &[]))
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, StoreError> {
        let mut reader = self.reader().await?;
        refuse_foreign(&mut reader).await?;
        Ok(applied(&mut reader).await?.into_iter().collect())
    }

    fn wanted_schema_version(&self) -> i64 {
        migrations::WANTED_VERSION
    }

    async fn ping(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&mut *self.reader().await?)
            .await?)
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        let written = self.transaction_with_end(async |tx| {
            sqlx::query(WRITE).execute(tx).await?;
            Ok(End::Rollback(()))
        });
        let written = written.await;
        written.map_err(|error| of_file(&self.file, "written", error))
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn tables(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(TABLES).fetch_all(connection).await
}

/// Tables with the application's names that verifyd did not make.
pub(super) async fn foreign(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let there = tables(connection).await?;
    let owned: Vec<String> = if there.iter().any(|name| name == "verifyd_owned_tables") {
        sqlx::query_scalar(OWNED).fetch_all(connection).await?
    } else {
        Vec::new()
    };
    Ok(there
        .into_iter()
        .filter(|name| APPLICATION_TABLES.contains(&name.as_str()) && !owned.contains(name))
        .collect())
}

async fn refuse_foreign(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    refuse(&foreign(connection).await?)
}

/// Refuses a file with such tables.
pub(super) fn refuse(foreign: &[String]) -> Result<(), StoreError> {
    if foreign.is_empty() {
        return Ok(());
    }
    let foreign = foreign.join(", ");
    Err(StoreError::Schema(
        format!("the file holds tables of another application: {foreign}").into(),
    ))
}

/// Tables of another application, where none is verifyd's: `migrate` has never run.
pub(super) async fn others_alone(
    connection: &mut SqliteConnection,
) -> Result<Vec<String>, sqlx::Error> {
    let mut there = tables(connection).await?;
    if there.iter().any(|name| name == MIGRATIONS_TABLE) {
        return Ok(Vec::new());
    }
    // SQLite's own, such as sqlite_sequence.
    there.retain(|name| !name.starts_with("sqlite_"));
    Ok(there)
}

/// Refuses a file with such tables.
pub(super) fn refuse_others_alone(others: &[String]) -> Result<(), StoreError> {
    if others.is_empty() {
        return Ok(());
    }
    let others = clean(&others.join(", "), NAMES_LENGTH);
    Err(StoreError::Schema(
        format!("the file holds tables, and none of verifyd's: {others}").into(),
    ))
}

/// Versions applied so far; empty when `migrate` has never run.
pub(super) async fn applied(
    connection: &mut SqliteConnection,
) -> Result<BTreeSet<i64>, StoreError> {
    if !tables(connection)
        .await?
        .iter()
        .any(|name| name == MIGRATIONS_TABLE)
    {
        return Ok(BTreeSet::new());
    }
    let versions: Vec<i64> = sqlx::query_scalar(VERSIONS).fetch_all(connection).await?;
    Ok(versions.into_iter().collect())
}
