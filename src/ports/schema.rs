//! Reads and changes the schema, its guards, and the server's state.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;

/// What `migrate` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Versions applied now.
    pub applied: Vec<i64>,
    /// Version of the schema afterwards.
    pub version: i64,
    /// Tables that verifyd made and owns.
    pub owned: Vec<String>,
    /// Tables that were there before verifyd and belong to another application.
    pub foreign: Vec<String>,
}

/// A migration that `migrate` would apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingMigration {
    pub version: i64,
    /// As the log names it when it is applied: `0006_notices`
    pub name: String,
    pub title: String,
    /// On tables that are there now. Empty for SQLite, where the whole file is locked.
    pub locks: Vec<TableLock>,
}

/// A lock on a table of PostgreSQL that a migration takes at most, and holds until all migrations are committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableLock {
    /// How the statement, or the part of it that locks, begins.
    pub statement: String,
    /// `operation_runs`, `verifyd.run_attempts`
    pub table: String,
    /// `ACCESS EXCLUSIVE`, as PostgreSQL calls it.
    pub mode: String,
}

/// Something about the schema that keeps verifyd from working, or slows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaFinding {
    /// True: verifyd cannot work. False: advice.
    pub fatal: bool,
    /// Whether the user of `database.url` lacks a privilege; the schema may fit for another user.
    pub privilege: bool,
    /// `operation_runs.context`
    pub subject: String,
    pub problem: String,
    pub remedy: String,
}

impl SchemaFinding {
    /// Something without which verifyd cannot work.
    pub fn fatal(
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fatal: true,
            ..Self::advice(subject, problem, remedy)
        }
    }

    /// Something that slows verifyd, or keeps a part of it from working.
    pub fn advice(
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fatal: false,
            privilege: false,
            subject: subject.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// The guards on `operation_runs`, by name: what the database itself refuses or repairs, whoever writes a run
/// of verifyd's type. Runs of other types are not affected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guards {
    pub in_place: Vec<String>,
    pub missing: Vec<String>,
    /// Of the audit trail.
    pub lost: Vec<LostGuard>,
}

/// A trigger that a migration puts on a table of verifyd's own, and that is missing or disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostGuard {
    pub name: String,
    pub table: String,
    /// What restores it.
    pub remedy: String,
}

/// What `enforce` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Enforced {
    /// Guards that were there already.
    pub in_place: Vec<String>,
    /// Guards, and an index, added now.
    pub added: Vec<String>,
    /// Guards that could not be added because of rows that break them.
    pub refused: Vec<RefusedGuard>,
}

/// A guard that existing rows break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedGuard {
    pub guard: String,
    /// What it requires, in words.
    pub demands: String,
    /// How many runs break it.
    pub rows: u64,
    /// The latest of them.
    pub example: RunId,
}

/// Migrates the schema, and reaches the server.
#[async_trait]
pub trait SchemaStore: Send + Sync {
    /// `postgres` or `sqlite`.
    fn kind(&self) -> &'static str;

    /// Brings verifyd's schema up to date; repeatable. Never changes a table that is another
    /// application's.
    async fn migrate(&self) -> Result<Migrated, StoreError>;

    /// Returns the migrations that `migrate` would apply, ascending. Changes nothing.
    async fn pending_migrations(&self) -> Result<Vec<PendingMigration>, StoreError>;

    /// Returns the versions that are applied, ascending; none when `migrate` has never run.
    async fn applied_migrations(&self) -> Result<Vec<i64>, StoreError>;

    /// Returns `None` when `migrate` has never run.
    async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.applied_migrations().await?.last().copied())
    }

    /// The version that this build needs.
    fn wanted_schema_version(&self) -> i64;

    /// One round trip; returns the server's version.
    async fn ping(&self) -> Result<String, StoreError>;

    /// Fails unless the database answers and may be written. Changes nothing.
    async fn check_writable(&self) -> Result<(), StoreError>;

    /// Closes all connections.
    async fn close(&self);
}

/// Compares the schema with what verifyd needs.
#[async_trait]
pub trait InspectStore: Send + Sync {
    /// Names every missing table and column and every wrong type. With anything fatal among it nothing is
    /// served.
    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError>;

    /// A text that changes whenever what `inspect` finds may have changed, for the price of one query.
    async fn schema_mark(&self) -> Result<String, StoreError>;
}

/// Adds what the database itself refuses or puts back.
#[async_trait]
pub trait GuardStore: Send + Sync {
    /// Returns which guards exist. Without a table of runs, all are missing.
    async fn guards(&self) -> Result<Guards, StoreError>;

    /// Adds the missing guards, also to another application's table, in steps that lock it only for short
    /// times. Can be repeated, and is to be repeated after a failure.
    async fn enforce(&self) -> Result<Enforced, StoreError>;
}
