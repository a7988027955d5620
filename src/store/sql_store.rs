//! What the databases have in common for port methods whose steps are the same in both.
//!
//! Such a method stands once, in a file of this folder, for every [`SqlStore`]. Its statements differ only by
//! their text. A method whose steps differ stands in the folder of each database.

use super::End;
use super::batching::Batcher;
use super::claims::ClaimRequest;
use super::completion::CompletionRequest;
use super::refused_requeues::RefusedRequeues;
use super::settings::LimitSettings;
use super::shares::Share;
use super::statement::Statement;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::groups::GroupMembers;
use crate::ports::claims::ClaimAnswer;
use crate::ports::completion_events::MAX_PENDING_EVENTS;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, broadcast};

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

    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
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

    /// Returns the share of the pool for releases. SQLite has one writer anyway.
    fn release_share(&self) -> Option<&Share> {
        None
    }

    fn in_process(&self) -> &InProcess;
}

/// What a store of either database keeps in its process.
pub(super) struct InProcess {
    /// Completions of this process.
    pub completions: broadcast::Sender<CompletionEvent>,
    /// Woken when it has recorded a delivery to a webhook.
    pub recorded: Notify,
    pub claims: Batcher<ClaimRequest, ClaimAnswer>,
    pub completing: Batcher<CompletionRequest, bool>,
    pub refused_requeues: RefusedRequeues,
    /// The group whose runs are claimed, dispatched and chosen. Unset: those of all.
    pub group: OnceLock<GroupMembers>,
    /// `limits.context_bytes`
    pub context_bytes: i64,
    /// Held while a context that is too large as a whole is read for people: one at a time, so that many readers take
    /// neither the server's memory nor the pool from the others.
    pub large_reads: Mutex<()>,
    /// Longest time for one call, but for those that change the schema; `None` where the database is a file.
    pub call_timeout: Option<Duration>,
}

impl InProcess {
    pub fn new(limits: LimitSettings, call_timeout: Option<Duration>) -> Self {
        Self {
            completions: broadcast::Sender::new(MAX_PENDING_EVENTS),
            recorded: Notify::new(),
            claims: Batcher::default(),
            completing: Batcher::default(),
            refused_requeues: RefusedRequeues::default(),
            group: OnceLock::new(),
            context_bytes: i64::from(limits.context_bytes),
            large_reads: Mutex::new(()),
            call_timeout,
        }
    }
}

/// Runs `work` in one transaction within the timeout of a call, and commits it. An error rolls back.
pub(super) async fn transaction<T, E: From<StoreError>>(
    store: &(impl SqlStore + ?Sized),
    work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
) -> Result<T, E> {
    let call = async {
        let mut tx = store.begin().await?;
        let worked = work(&mut tx).await;
        commit_or_roll_back(tx, worked.map(End::Commit)).await
    };
    within(store.in_process().call_timeout, call).await
}

/// Runs `work` in one transaction within the timeout of a call; its result says whether to commit.
pub(super) async fn transaction_with_end<T, E: From<StoreError>>(
    store: &(impl SqlStore + ?Sized),
    work: impl AsyncFnOnce(&mut Tx) -> Result<End<T>, E>,
) -> Result<T, E> {
    let call = async {
        let mut tx = store.begin().await?;
        let worked = work(&mut tx).await;
        commit_or_roll_back(tx, worked).await
    };
    within(store.in_process().call_timeout, call).await
}

/// See [`End::reach`].
async fn commit_or_roll_back<T, E: From<StoreError>>(
    tx: Tx,
    worked: Result<End<T>, E>,
) -> Result<T, E> {
    End::reach(
        tx.0,
        worked,
        SqlTransaction::commit,
        SqlTransaction::rollback,
    )
    .await
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
    within(store.in_process().call_timeout, call).await
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
