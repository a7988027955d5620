//! SQLite: the embedded default.
//!
//! One connection writes, in transactions that begin with `BEGIN IMMEDIATE`; so they take turns, in the
//! order in which they asked, and with other processes, which `busy_timeout` waits for. The others read
//! (WAL). What PostgreSQL needs locks and rechecks for cannot happen here: nothing changes between two
//! statements of a transaction that writes. Calls that come at the same time share one: `together`.
//!
//! Times are texts, RFC 3339 in UTC with milliseconds, written by SQLite's own clock.

mod access;
mod acknowledgements;
mod actors;
mod bounds;
mod claim;
mod complete;
mod connections;
mod disown;
mod earlier;
mod facts;
mod guards;
mod inspect;
mod invalid_runs;
mod inventory;
mod notices;
mod onboarding;
mod outbox;
mod overview;
mod plan;
mod probe;
mod prune;
mod runs;
mod schema;
mod summaries;
mod sweep;
mod together;
mod turns;
mod wake;
mod webhooks;
mod workers;

use super::error::from_sqlx;
use super::together::Group;
use super::{DatabaseSettings, LimitSettings};
use crate::domain::access::Binding;
use crate::domain::completion::Completion;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::connection::{
    ConnectionStatus, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::connection_facts::KeptFacts;
use crate::domain::permission::StoredPermission;
use crate::domain::run::RunState;
use crate::domain::{ConnectionId, OperationRun, RunId, RunSummary, TenantId, WorkerId};
use crate::ports::completion_events::EVENTS_KEPT;
use crate::ports::store::{
    AddConnectionError, AttemptEnd, AttemptRecord, Beat, Claim, ClaimAnswer, ClaimPolicy,
    ConnectionStore, Enforced, FoundCredential, Guards, InventoryFreshness, LatestReport, Migrated,
    NewRun, OpenAttempt, PrunePolicy, Pruned, Recorded, RunCounts, RunFilter, RunStore,
    SchemaFinding, SchemaStore, Seal, StartingPoint, StoreError, SweepPolicy, Swept, WorkerRecord,
};
use crate::ports::vault::SealedCredential;
use async_trait::async_trait;
use secrecy::ExposeSecret;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, Transaction};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use together::{ClaimRequest, CompletionRequest, StartRequest};
use tokio::sync::{Notify, broadcast};

/// `domain::run::RUN_TYPE` as an SQL literal: the planner must see it to use a partial index.
macro_rules! run_type {
    () => {
        "'provider.connection.check'"
    };
}
use run_type;

/// Of an attempt: it was only to complete the run, and did not. One of an earlier run does not count.
macro_rules! futile {
    () => {
        "NOT earlier AND NOT counted AND end_reason IN ('worker_lost', 'error', 'superseded')"
    };
}
use futile;

/// The database's time; the same for all of a statement.
macro_rules! now {
    () => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}
use now;

/// The database's time, moved by a parameter: see `later` and `earlier`.
macro_rules! now_moved_by {
    ($parameter:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ", $parameter, ")")
    };
}
use now_moved_by;

type Tx = Transaction<'static, Sqlite>;

/// A SQLite database.
pub(super) struct SqliteStore {
    file: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    /// Held by the sweep of this process.
    sweeping: tokio::sync::Mutex<()>,
    /// What this process has completed.
    completions: broadcast::Sender<CompletionEvent>,
    /// Woken when it has recorded a delivery to a webhook.
    recorded: Notify,
    claims: Group<ClaimRequest, ClaimAnswer>,
    starts: Group<StartRequest, Option<StartingPoint>>,
    completing: Group<CompletionRequest, bool>,
    /// `limits.context_bytes`
    context_bytes: i64,
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
    /// Opens the file, and makes it where it is missing (mode 0600: it holds credentials).
    pub(super) async fn connect(
        settings: &DatabaseSettings,
        limits: LimitSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let url = settings.url.expose_secret();
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Refused(
                "database.url names a database in memory, of which every connection would see \
                 another; allowed: sqlite:FILE"
                    .into(),
            ));
        }
        let options: SqliteConnectOptions = url.parse().map_err(|_| {
            StoreError::Refused("database.url cannot be understood, allowed: sqlite:FILE".into())
        })?;
        let file = options.get_filename().to_owned();
        if file.as_os_str().is_empty() {
            return Err(StoreError::Refused(
                "database.url names no file, allowed: sqlite:FILE".into(),
            ));
        }
        create_private(&file)?;
        let options = options
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // A committed run survives a power cut, too.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(settings.lock_timeout);
        // Nobody but this process can end a connection to a file: none is asked whether it lives.
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
        // The writer comes first: it turns the WAL on.
        tokio::time::timeout(settings.connect_timeout, writer.acquire())
            .await
            .map_err(|_| {
                StoreError::Unavailable("the file was not opened within connect_timeout".into())
            })?
            .map_err(from_sqlx)?;
        Ok(Arc::new_cyclic(|me| Self {
            file,
            writer,
            readers,
            sweeping: tokio::sync::Mutex::new(()),
            completions: broadcast::Sender::new(EVENTS_KEPT),
            recorded: Notify::new(),
            claims: Group::default(),
            starts: Group::default(),
            completing: Group::default(),
            context_bytes: i64::from(limits.context_bytes),
            me: me.clone(),
        }))
    }

    /// A transaction that may write, alone until it ends. Dropped without a commit, it is rolled
    /// back.
    async fn begin(&self) -> Result<Tx, StoreError> {
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(from_sqlx)
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.readers.acquire().await.map_err(from_sqlx)
    }
}

async fn commit(tx: Tx) -> Result<(), StoreError> {
    tx.commit().await.map_err(from_sqlx)
}

async fn rollback(tx: Tx) -> Result<(), StoreError> {
    tx.rollback().await.map_err(from_sqlx)
}

/// Whether the writer can be used again. SQLite itself rolls a transaction back when the disk is full,
/// for example. The driver does not notice, and would refuse every later one on this connection.
async fn has_no_transaction(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Behind the rollback of a transaction that was dropped.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// The write-ahead log and the shared memory beside it get the same mode from SQLite.
fn create_private(file: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::Unavailable(format!("{}: {e}", file.display()))),
    }
}

/// A modifier that moves a time into the future.
fn later(duration: Duration) -> String {
    format!("+{:.3} seconds", duration.as_secs_f64())
}

/// A modifier that moves a time into the past.
fn earlier(duration: Duration) -> String {
    format!("-{:.3} seconds", duration.as_secs_f64())
}

/// A list of ids for `json_each`.
fn id_list(ids: &[i64]) -> serde_json::Value {
    ids.into()
}

#[async_trait]
impl RunStore for SqliteStore {
    async fn claim(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        self.claim_run(run, worker, policy).await
    }

    async fn complete(&self, claim: &Claim, completion: &Completion) -> Result<bool, StoreError> {
        self.complete_run(claim, completion).await
    }

    async fn release(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Result<bool, StoreError> {
        self.release_run(claim, end, not_before).await
    }

    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError> {
        self.sweep_runs(policy).await
    }

    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError> {
        self.list_open_attempts(worker).await
    }

    async fn disown(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError> {
        self.disown_attempts(worker, attempts).await
    }

    async fn undeliver(&self, runs: &[RunId]) -> Result<(), StoreError> {
        self.undeliver_runs(runs).await
    }

    async fn beat(&self, beat: &Beat) -> Result<(), StoreError> {
        self.beat_worker(beat).await
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.retire_worker(worker).await
    }

    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        self.record_run(new).await
    }

    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        self.record_runs(new).await
    }

    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        self.read_run(id).await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError> {
        self.list_runs(filter).await
    }

    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        self.summarise_run(id).await
    }

    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError> {
        self.read_run_state(id).await
    }

    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError> {
        self.list_run_states(binding, limit).await
    }

    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        self.list_attempts(run).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.list_workers().await
    }

    async fn counts(&self) -> Result<RunCounts, StoreError> {
        self.count_runs().await
    }

    async fn prune(
        &self,
        policy: &PrunePolicy,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.prune_runs(policy, after).await
    }

    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.delete_stray_attempts(batch, after).await
    }

    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.count_prunable(older_than).await
    }

    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        self.read_latest_report(connection).await
    }
}

#[async_trait]
impl ConnectionStore for SqliteStore {
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        self.read_connection(id).await
    }

    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError> {
        self.read_starting_point(id).await
    }

    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        self.write_facts(kept).await
    }

    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError> {
        self.list_connections(tenant, after, limit).await
    }

    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError> {
        self.insert_connection(new, seal).await
    }

    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
    ) -> Result<bool, StoreError> {
        self.update_connection_status(id, status).await
    }

    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError> {
        self.replace_credential(id, sealed).await
    }

    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        self.list_credentials(after, limit).await
    }

    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
    ) -> Result<bool, StoreError> {
        self.swap_payload(id, old_payload, new_payload).await
    }

    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError> {
        self.list_permissions(tenant).await
    }

    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        self.read_freshness(tenant).await
    }
}

#[async_trait]
impl SchemaStore for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.run_migrations().await
    }

    async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        self.applied_version().await
    }

    fn wanted_schema_version(&self) -> i64 {
        super::migrations::WANTED_VERSION
    }

    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError> {
        self.inspect_schema().await
    }

    async fn schema_mark(&self) -> Result<String, StoreError> {
        self.read_schema_mark().await
    }

    async fn guards(&self) -> Result<Guards, StoreError> {
        self.find_guards().await
    }

    async fn enforce(&self) -> Result<Enforced, StoreError> {
        self.enforce_guards().await
    }

    async fn ping(&self) -> Result<String, StoreError> {
        self.library_version().await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::settings::ListenMode;

    /// What docs/operating.md promises of a machine that loses power.
    #[tokio::test]
    async fn a_commit_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let limit = Duration::from_secs(60);
        let store = SqliteStore::connect(
            &DatabaseSettings {
                url: url.into(),
                max_connections: 2,
                acquire_timeout: limit,
                connect_timeout: limit,
                statement_timeout: limit,
                lock_timeout: limit,
                idle_timeout: limit,
                max_lifetime: limit,
                listen: ListenMode::Off,
                listen_url: String::new().into(),
            },
            LimitSettings::default(),
        )
        .await
        .unwrap();
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

    #[test]
    fn the_literal_is_the_domains_type() {
        assert_eq!(run_type!(), format!("'{}'", crate::domain::run::RUN_TYPE));
    }
}
