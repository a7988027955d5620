//! What the databases have in common for port methods whose steps are the same in both.
//!
//! Such a method stands once, in a file of this folder, for every [`SqlStore`]. Its statements differ only by
//! their text. A method whose steps differ stands in the folder of each database.

use super::statement::Statement;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

/// A row of either database.
pub(super) enum SqlRow {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

/// What a row of either database is read as.
pub(super) trait FromSqlRow: Sized + Send {
    fn from_sql_row(row: &SqlRow) -> sqlx::Result<Self>;
}

impl<T: Send + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow>> FromSqlRow for T {
    fn from_sql_row(row: &SqlRow) -> sqlx::Result<Self> {
        match row {
            SqlRow::Postgres(row) => Self::from_row(row),
            SqlRow::Sqlite(row) => Self::from_row(row),
        }
    }
}

/// A connection to either database.
#[async_trait]
pub(super) trait SqlConnection: Send {
    /// Runs the statement; returns how many rows it has changed.
    async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError>;

    /// Returns the rows of the statement.
    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqlRow>, StoreError>;
}

/// A connection in a transaction. Dropped without a commit, it is rolled back.
#[async_trait]
pub(super) trait SqlTransaction: SqlConnection {
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// A transaction of either database. A type without a lifetime: the compiler cannot tell that a closure which
/// gets a trait object is `Send`.
pub(super) struct Tx(Box<dyn SqlTransaction>);

impl Tx {
    pub fn new(transaction: impl SqlTransaction + 'static) -> Self {
        Self(Box::new(transaction))
    }
}

#[async_trait]
impl SqlConnection for Tx {
    async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        self.0.execute(statement).await
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqlRow>, StoreError> {
        self.0.fetch(statement).await
    }
}

/// A store whose connections run the shared statements.
#[async_trait]
pub(super) trait SqlStore: Send + Sync + 'static {
    /// Begins a transaction that may write.
    async fn begin(&self) -> Result<Tx, StoreError>;

    /// Opens a transaction, or a connection, that only reads.
    async fn begin_read(&self) -> Result<Tx, StoreError>;

    /// Longest time for one call; `None` where the database is a file.
    fn call_timeout(&self) -> Option<Duration>;

    /// `limits.context_bytes`
    fn context_bytes(&self) -> i64;

    /// Held while a context that is not small is read: one at a time, so that many of them take neither the
    /// server's memory nor the pool from the others.
    fn large_contexts(&self) -> &Mutex<()>;

    /// Woken when this process has recorded a delivery to a webhook.
    fn recorded(&self) -> &Notify;
}

/// Runs `work` in one transaction within the timeout of a call, and commits it. An error rolls back.
pub(super) async fn transaction<T, E: From<StoreError>>(
    store: &(impl SqlStore + ?Sized),
    work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
) -> Result<T, E> {
    let call = async {
        let mut tx = store.begin().await?;
        let answer = work(&mut tx).await?;
        tx.0.commit().await?;
        Ok(answer)
    };
    within(store.call_timeout(), call).await
}

/// Runs `work`, which only reads, within the timeout of a call.
pub(super) async fn read<T>(
    store: &(impl SqlStore + ?Sized),
    work: impl AsyncFnOnce(&mut Tx) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let call = async {
        let mut tx = store.begin_read().await?;
        let answer = work(&mut tx).await?;
        tx.0.commit().await?;
        Ok(answer)
    };
    within(store.call_timeout(), call).await
}

/// Runs one statement in a transaction of its own; returns how many rows it has changed.
pub(super) async fn execute(
    store: &(impl SqlStore + ?Sized),
    statement: Statement,
) -> Result<u64, StoreError> {
    transaction(store, async |tx| statement.execute(tx).await).await
}

/// Returns all rows of one statement that only reads.
pub(super) async fn fetch_all<T: FromSqlRow>(
    store: &(impl SqlStore + ?Sized),
    statement: impl Into<Statement>,
) -> Result<Vec<T>, StoreError> {
    let statement = statement.into();
    read(store, async |tx| statement.fetch_all(tx).await).await
}

/// Returns the first row of one statement that only reads, if there is one.
pub(super) async fn fetch_optional<T: FromSqlRow>(
    store: &(impl SqlStore + ?Sized),
    statement: impl Into<Statement>,
) -> Result<Option<T>, StoreError> {
    let statement = statement.into();
    read(store, async |tx| statement.fetch_optional(tx).await).await
}

/// The call, within this time. Nothing is known of what was under way.
pub(super) async fn within<T, E: From<StoreError>>(
    timeout: Option<Duration>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(timeout) = timeout else {
        return call.await;
    };
    match tokio::time::timeout(timeout, call).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Unavailable("no answer within the timeout".into()).into()),
    }
}
