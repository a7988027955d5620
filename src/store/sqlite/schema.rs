//! Migrations, and the library behind them.

use super::{SqliteStore, commit, rollback};
use crate::ports::store::{Migrated, StoreError};
use crate::store::migrations;
use crate::store::tables::APPLICATION_TABLES;
use sqlx::SqliteConnection;
use std::collections::BTreeSet;

const MIGRATIONS_TABLE: &str = "verifyd_schema_migrations";

const TABLES: &str = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name";

const OWNED: &str = "SELECT table_name FROM verifyd_owned_tables";

const VERSIONS: &str = "SELECT version FROM verifyd_schema_migrations WHERE success";

impl SqliteStore {
    /// The whole file belongs to verifyd: where tables of these names are another application's,
    /// nothing is done. (PostgreSQL is for living beside another application.)
    pub(super) async fn run_migrations(&self) -> Result<Migrated, StoreError> {
        let mut tx = self.begin().await?;
        let before = applied(&mut tx).await?;
        let strangers = foreign(&mut tx).await?;
        if !strangers.is_empty() {
            rollback(tx).await?;
            return Err(StoreError::Schema(format!(
                "the file holds tables of another application: {}; give verifyd a file of its own",
                strangers.join(", ")
            )));
        }
        migrations::migrator(migrations::sqlite(), MIGRATIONS_TABLE)
            .run_direct(None, &mut *tx, false)
            .await?;
        let after = applied(&mut tx).await?;
        let owned = tables(&mut tx)
            .await?
            .into_iter()
            .filter(|name| {
                name.starts_with("verifyd_") || APPLICATION_TABLES.contains(&name.as_str())
            })
            .collect();
        commit(tx).await?;
        Ok(Migrated {
            applied: after.difference(&before).copied().collect(),
            version: after.last().copied().unwrap_or_default(),
            owned,
            foreign: Vec::new(),
        })
    }

    pub(super) async fn applied_version(&self) -> Result<Option<i64>, StoreError> {
        let mut reader = self.reader().await?;
        Ok(applied(&mut reader).await?.last().copied())
    }

    pub(super) async fn library_version(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&mut *self.reader().await?)
            .await?)
    }
}

async fn tables(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(TABLES).fetch_all(connection).await?)
}

/// Tables with the application's names that verifyd did not make.
async fn foreign(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
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

/// Versions applied so far; empty when `migrate` has never run.
async fn applied(connection: &mut SqliteConnection) -> Result<BTreeSet<i64>, StoreError> {
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
