//! SQLite, the embedded default.
//!
//! One connection writes, in transactions that begin with `BEGIN IMMEDIATE`: they are serialised in the order
//! of their requests, and with other processes by `busy_timeout`. The other connections read (WAL). So
//! nothing changes between two statements of a writing transaction, and the locks and rechecks of PostgreSQL
//! are not needed. Calls that come at the same time share a transaction: `batching`.
//!
//! Times are texts, RFC 3339 in UTC with milliseconds, written by SQLite's own clock.

mod batching;
mod claim;
mod complete;
mod completion_events;
mod connection;
mod guards;
mod inspect;
mod inventory;
mod probe;
#[cfg(test)]
mod query_plans;
mod recording;
mod schema;
mod untouched;
mod webhook_deliveries;

use super::dialect::{is_failed_completion, run_type};
use super::error::opening;
use super::sql_store::InProcess;
use super::{DatabaseSettings, End, LimitSettings, Unmigrated, address};
use crate::ports::store_error::{Code, Detail, StoreError};
use rustix::fs::Access;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::types::Json;
use sqlx::{Connection as _, Sqlite, Transaction};
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The database's time; the same for all of a statement.
macro_rules! now {
    ($(sqlite)?) => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}
use now;

/// The database's time, moved by a parameter: see `modifier`.
macro_rules! now_moved_by {
    ($parameter:literal) => {
        $crate::store::sql::sql!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', " $parameter ")")
    };
}
use now_moved_by;

type Tx = Transaction<'static, Sqlite>;

/// Device and inode.
type FileId = (u64, u64);

/// A file that replaces an open one is not written to: the open one and its write-ahead log belong to no path, or to
/// the other file.
const REPLACED: &str = "the file at database.url is another one than at the start, or gone";

/// A SQLite database.
pub(super) struct SqliteStore {
    file: PathBuf,
    /// Of the file that the connections have open.
    opened: FileId,
    writer: SqlitePool,
    readers: SqlitePool,
    in_process: InProcess,
    /// Itself, for the tasks that run the batches.
    me: Weak<Self>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, and creates it where it is missing (mode 0600, as it contains credentials).
    pub(super) async fn connect(
        settings: &DatabaseSettings,
        limits: LimitSettings,
        unmigrated: Unmigrated,
    ) -> Result<Arc<Self>, StoreError> {
        let options = options(settings)?;
        let file = options.get_filename().to_owned();
        create_private(&file)?;
        let unchanging = options;
        let options = unchanging
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            // A committed run survives a power cut, too.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        // Only this process can end a connection to a file, so connections are not tested.
        let writer = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .after_release(|connection, _| Box::pin(has_no_transaction(connection)))
            .max_connections(1)
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(options.clone());
        let readers = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(settings.max_connections.max(1))
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(options.pragma("query_only", "on"));
        in_time(settings, async {
            untouched::refuse_foreign(&unchanging, unmigrated).await?;
            // The writer comes first: it turns the WAL on.
            writer.acquire().await.map(drop).map_err(opening)
        })
        .await
        .map_err(|error| of_file(&file, "opened", error))?;
        let opened = file_id(&file)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", file.display()).into()))?;
        Ok(Arc::new_cyclic(|me| Self {
            file,
            opened,
            writer,
            readers,
            in_process: InProcess::new(limits, None),
            me: me.clone(),
        }))
    }

    /// Begins a transaction that may write; no other one writes until it ends. Dropped without a commit, it
    /// is rolled back.
    async fn begin(&self) -> Result<Tx, StoreError> {
        if self.is_replaced() {
            return Err(StoreError::Unavailable(REPLACED.into()));
        }
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Runs `work` in one transaction that may write, and commits it. An error rolls back.
    async fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.begin().await?;
        let answer = work(&mut tx).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(answer)
    }

    /// Runs `work` in one transaction; its result says whether to commit.
    async fn transaction_with_end<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<End<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let mut tx = self.begin().await?;
        match work(&mut tx).await? {
            End::Commit(answer) => {
                tx.commit().await?;
                Ok(answer)
            }
            End::Rollback(answer) => {
                tx.rollback().await?;
                Ok(answer)
            }
        }
    }

    /// Whether the path leads to another file than the open one, or to none.
    fn is_replaced(&self) -> bool {
        file_id(&self.file).ok() != Some(self.opened)
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }
}

/// Returns the migrations that are applied to a file that is there. Does not change it.
pub(super) async fn applied_migrations(
    settings: &DatabaseSettings,
) -> Result<BTreeSet<i64>, StoreError> {
    let options = options(settings)?;
    in_time(settings, untouched::applied(&options)).await
}

/// Opens a file within the time for that.
async fn in_time<T>(
    settings: &DatabaseSettings,
    opening: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timed = tokio::time::timeout(settings.acquire_timeout, opening).await;
    timed.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(
            "the file was not opened within database.acquire_timeout".into(),
        ))
    })
}

/// Reads the address, which must name a file. What opens it so creates none.
fn options(settings: &DatabaseSettings) -> Result<SqliteConnectOptions, StoreError> {
    let url = settings.url.expose_secret();
    if let Some(problem) = address::problem(url) {
        let why = format!("database.url cannot be used: {problem}");
        return Err(StoreError::Settings(why.into()));
    }
    let options: SqliteConnectOptions = url.parse().map_err(|_| {
        StoreError::Settings("database.url cannot be parsed, allowed: sqlite:FILE".into())
    })?;
    if options.get_filename().as_os_str().is_empty() {
        return Err(StoreError::Settings(
            "database.url names no file, allowed: sqlite:FILE".into(),
        ));
    }
    Ok(options
        .create_if_missing(false)
        .busy_timeout(settings.lock_timeout()))
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Returns the file if it is missing and its folder lets this user create it.
pub(super) fn missing_file(settings: &DatabaseSettings) -> Result<Option<PathBuf>, StoreError> {
    let options = options(settings)?;
    let file = options.get_filename();
    if file.exists() {
        return Ok(None);
    }
    rustix::fs::access(folder(file), Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| cannot_create(file, &e.into()))?;
    Ok(Some(file.to_owned()))
}

/// Whether the writer can be used again. SQLite itself rolls a transaction back when the disk is full,
/// for example. The driver does not notice, and would refuse every later one on this connection.
async fn has_no_transaction(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Behind the rollback of a transaction that was dropped.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

fn file_id(file: &Path) -> std::io::Result<FileId> {
    let found = std::fs::metadata(file)?;
    Ok((found.dev(), found.ino()))
}

/// SQLite gives the write-ahead log and the shared memory file the same mode.
fn create_private(file: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(cannot_create(file, &e)),
    }
}

/// Names the file in an error with which SQLite itself refuses it.
fn of_file(file: &Path, what: &str, error: StoreError) -> StoreError {
    let step = format!("the file {} cannot be {what}", file.display());
    let is_of_sqlite = |why: &Detail| matches!(why.code, Some(Code::Sqlite(_)));
    match error {
        StoreError::Refused(why) if is_of_sqlite(&why) => StoreError::Refused(why.at(step)),
        StoreError::Unavailable(why) if is_of_sqlite(&why) => StoreError::Unavailable(why.at(step)),
        other => other,
    }
}

fn cannot_create(file: &Path, error: &std::io::Error) -> StoreError {
    let why = format!("the file {} cannot be created: {error}", file.display());
    StoreError::Unavailable(why.into())
}

/// Returns the modifier that moves a time by this period, with `+` into the future and with `-` into the past.
fn modifier(sign: char, period: Duration) -> String {
    format!("{sign}{:.3} seconds", period.as_secs_f64())
}

/// Rows for `json_each`.
fn json_list<T: Serialize>(
    rows: impl Iterator<Item = T>,
) -> Result<Json<Box<RawValue>>, StoreError> {
    let rows: Vec<T> = rows.collect();
    to_raw_value(&rows)
        .map(Json)
        .map_err(|_| StoreError::Refused("the value to store cannot be written as JSON".into()))
}

/// A list of ids for `json_each`.
fn id_list(ids: &[i64]) -> serde_json::Value {
    ids.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::schema::{InspectStore as _, SchemaStore as _};

    async fn connect(file: &Path) -> Arc<SqliteStore> {
        let limit = Duration::from_secs(60);
        SqliteStore::connect(
            &DatabaseSettings {
                url: format!("sqlite:{}", file.display()).into(),
                password_file: PathBuf::new(),
                max_connections: 2,
                acquire_timeout: limit,
                statement_timeout: limit,
                listen_url: String::new().into(),
                read_url: String::new().into(),
            },
            LimitSettings::default(),
            Unmigrated::Empty,
        )
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_found_and_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let file = at("test.db");
        let store = connect(&file).await;
        let mark = store.schema_mark().await.unwrap();
        drop(store.begin().await.unwrap());
        std::fs::write(at("other.db"), b"").unwrap();
        std::fs::rename(&file, at("moved.db")).unwrap();
        for _ in ["gone", "another"] {
            assert_ne!(store.schema_mark().await.unwrap(), mark);
            let findings = store.inspect().await.unwrap();
            assert!(findings.len() == 1 && findings[0].fatal, "{findings:?}");
            assert_eq!(findings[0].problem, REPLACED);
            let refused = store.begin().await.err();
            assert!(matches!(refused, Some(StoreError::Unavailable(why)) if why.text == REPLACED));
            assert!(store.check_writable().await.is_err());
            let _ = std::fs::rename(at("other.db"), &file);
        }
        std::fs::rename(at("moved.db"), &file).unwrap();
        assert_eq!(store.schema_mark().await.unwrap(), mark);
        store.check_writable().await.unwrap();
    }

    /// Holds what docs/guides/operate.md promises about a loss of power.
    #[tokio::test]
    async fn a_commit_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = connect(&folder.path().join("test.db")).await;
        let mut writer = store.writer.acquire().await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *writer)
            .await
            .unwrap();
        let full: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&mut *writer)
            .await
            .unwrap();
        assert_eq!((journal.as_str(), full), ("wal", 2));
    }
}
