//! The guards on `operation_runs`. The file is verifyd's own: the migrations make them, and `enforce` makes
//! removed ones again.

use super::SqliteStore;
use crate::ports::schema::{Enforced, GuardStore, Guards};
use crate::ports::store_error::StoreError;
use crate::store::migrations;
use async_trait::async_trait;
use sqlx::SqliteConnection;

/// The triggers of migrations 15 and 17. (The rest is in the table's definition, which SQLite cannot alter.)
const TRIGGERS: [&str; 7] = [
    "verifyd_guard_completed_run",
    "verifyd_guard_run_identity",
    "verifyd_guard_run_recorded",
    "verifyd_guard_context_size",
    "verifyd_guard_context_size_kept",
    "verifyd_guard_time_size_kept",
    "verifyd_guard_run_id",
];

const FIND: &str = "
    SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'operation_runs'";

#[async_trait]
impl GuardStore for SqliteStore {
    async fn guards(&self) -> Result<Guards, StoreError> {
        find(&mut *self.reader().await?).await
    }

    async fn enforce(&self) -> Result<Enforced, StoreError> {
        self.transaction(async |tx| {
            let before = find(tx).await?;
            sqlx::raw_sql(migrations::SQLITE_GUARDS)
                .execute(&mut *tx)
                .await?;
            Ok(Enforced {
                in_place: before.in_place,
                added: before.missing,
                refused: Vec::new(),
            })
        })
        .await
    }
}

async fn find(connection: &mut SqliteConnection) -> Result<Guards, StoreError> {
    let there: Vec<String> = sqlx::query_scalar(FIND).fetch_all(connection).await?;
    let (in_place, missing) = TRIGGERS
        .iter()
        .map(|name| (*name).to_owned())
        .partition(|name| there.contains(name));
    Ok(Guards { in_place, missing })
}
