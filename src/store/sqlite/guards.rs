//! The guards on `operation_runs` and the audit trail. The file is verifyd's own: the migrations make them, and `enforce`
//! makes removed ones again.

use super::SqliteStore;
use crate::ports::partitions::PartitionStore;
use crate::ports::replica::ReplicaStore;
use crate::ports::schema::{Enforced, GuardStore, Guards, LostGuard};
use crate::ports::store_error::StoreError;
use crate::store::migrations;
use async_trait::async_trait;
use sqlx::SqliteConnection;

/// The triggers of migrations 15, 17 and 22. (The rest is in the table's definition, which SQLite cannot alter.)
const TRIGGERS: [&str; 7] = [
    "verifyd_guard_completed_run",
    "verifyd_guard_run_identity",
    "verifyd_guard_run_recorded",
    "verifyd_guard_context_size",
    "verifyd_guard_context_size_kept",
    "verifyd_guard_time_size_kept",
    "verifyd_guard_run_id",
];

/// The triggers of migration 20.
const AUDIT_TRIGGERS: [&str; 4] = [
    "verifyd_guard_audit_entries_insert",
    "verifyd_guard_audit_entries_id",
    "verifyd_guard_audit_entries_update",
    "verifyd_guard_audit_entries_delete",
];

const AUDIT_ENTRIES: &str = "verifyd_audit_entries";

const FIND: &str = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = $1";

#[async_trait]
impl GuardStore for SqliteStore {
    async fn guards(&self) -> Result<Guards, StoreError> {
        find(&mut *self.reader().await?).await
    }

    async fn enforce(&self) -> Result<Enforced, StoreError> {
        self.transaction(async |tx| {
            let before = find(tx).await?;
            for guards in migrations::sqlite_guards() {
                sqlx::raw_sql(guards).execute(&mut *tx).await?;
            }
            let lost = before.lost.into_iter().map(|guard| guard.name);
            Ok(Enforced {
                in_place: before.in_place,
                added: before.missing.into_iter().chain(lost).collect(),
                refused: Vec::new(),
            })
        })
        .await
    }
}

#[async_trait]
impl PartitionStore for SqliteStore {}

#[async_trait]
impl ReplicaStore for SqliteStore {}

async fn find(connection: &mut SqliteConnection) -> Result<Guards, StoreError> {
    let there = triggers(connection, "operation_runs").await?;
    let (in_place, missing) = TRIGGERS
        .iter()
        .map(|name| (*name).to_owned())
        .partition(|name| there.contains(name));
    let there = triggers(connection, AUDIT_ENTRIES).await?;
    let lost = AUDIT_TRIGGERS
        .iter()
        .map(|name| (*name).to_owned())
        .filter(|name| !there.contains(name))
        .map(|name| LostGuard {
            name,
            table: AUDIT_ENTRIES.to_owned(),
            remedy: "run `verifyd migrate --enforce`".to_owned(),
        });
    Ok(Guards {
        in_place,
        missing,
        lost: lost.collect(),
    })
}

async fn triggers(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<String>, StoreError> {
    let found = sqlx::query_scalar(FIND).bind(table);
    Ok(found.fetch_all(connection).await?)
}
