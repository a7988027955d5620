//! PostgreSQL, 15 and later.
//!
//! Every statement runs inside an explicit transaction that sets its own limits with `SET LOCAL`
//! in the same round trip as `BEGIN`. So nothing belongs to the session, and a pooler in
//! transaction mode (PgBouncer) may share the server's connections out: no startup option, no
//! session variable, no session lock. Prepared statements: PgBouncer from 1.21 tracks them
//! (`max_prepared_statements`); for older ones `?statement-cache-capacity=0` in the URL makes every
//! statement an unnamed one, prepared and used within the same transaction.
//!
//! The application's columns are read through `::timestamptz`, so that both `timestamp with time
//! zone` and Laravel's `timestamp without time zone` (taken as UTC) work.

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
mod indexes;
mod inspect;
mod invalid_runs;
mod inventory;
mod notices;
mod onboarding;
mod options;
mod outbox;
mod overview;
mod patience;
mod plan;
mod private;
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

pub(super) use private::PrivateDatabase;

use super::error::from_sqlx;
use super::settings::{DatabaseSettings, LimitSettings, ListenMode};
use super::together::Group;
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
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres, SqlSafeStr, SqlStr, Transaction};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use together::{ClaimRequest, CompletionRequest};
use tokio::sync::{Mutex, Notify, OnceCell, broadcast};

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

/// Keys of the advisory locks, each with "verifyd" in front (the first of two integers).
const ADVISORY_SPACE: i32 = 0x7665_7269;
const ADVISORY_MIGRATE: i32 = 1;
const ADVISORY_SWEEP: i32 = 2;
const ADVISORY_PRUNE: i32 = 3;

/// How long a transaction may wait for its own process before the server ends it, beyond the
/// statement timeout: a process that was stopped in the middle must not keep its locks.
const IDLE_GRACE: Duration = Duration::from_secs(10);

type Tx = Transaction<'static, Postgres>;
/// On a connection that its caller keeps.
type InTx<'c> = Transaction<'c, Postgres>;

/// A PostgreSQL database.
pub(super) struct PostgresStore {
    pool: PgPool,
    /// The connection over which this process beats, and how to open another one. Behind busy
    /// connections of the pool a beat would come late, and cost the process all its runs.
    heart: Mutex<Option<PgConnection>>,
    options: PgConnectOptions,
    /// How to open the connection that listens; null when none is to.
    listen: Option<PgConnectOptions>,
    /// What this process has completed.
    completions: broadcast::Sender<CompletionEvent>,
    /// Woken when it has recorded a delivery to a webhook.
    recorded: Notify,
    /// `BEGIN` and the limits of every transaction.
    begin: SqlStr,
    /// The same for a batch of calls; known once the server has been asked what it can do.
    begin_together: OnceCell<SqlStr>,
    /// Of the schema, as it was when it was last asked for.
    mark: Mutex<Option<String>>,
    renewal: Arc<patience::Renewal>,
    claims: Group<ClaimRequest, ClaimAnswer>,
    completing: Group<CompletionRequest, ()>,
    /// `limits.context_bytes`
    context_bytes: i64,
    /// Held while a context that is not small is read or written: one at a time, so that many of them
    /// take neither the server's memory nor the pool from the others.
    large_contexts: Mutex<()>,
    /// Itself, for the tasks that run the batches.
    me: Weak<Self>,
    /// Whether prepared statements have names and so outlive their transaction.
    named: bool,
    /// Longest time for one call, but for those that change the schema.
    call_timeout: Duration,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", &self.pool.size())
            .field("idle", &self.pool.num_idle())
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Opens the pool, and one connection within `connect_timeout`.
    pub(super) async fn connect(
        settings: &DatabaseSettings,
        limits: LimitSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let (options, named) = options::read("database.url", settings.url.expose_secret())?;
        let listen = match (settings.listen, settings.listen_url.expose_secret()) {
            (ListenMode::Off, _) => None,
            (ListenMode::Auto, "") => Some(options.clone()),
            (ListenMode::Auto, url) => Some(options::read("database.listen_url", url)?.0),
        };
        let statement = settings.statement_timeout.as_millis();
        let lock = settings.lock_timeout.as_millis();
        let idle = (settings.statement_timeout + IDLE_GRACE).as_millis();
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}; \
             SET LOCAL idle_in_transaction_session_timeout = {idle}"
        );
        // Not through the pool, which would try again until acquire_timeout and then not say why.
        let first = async { options.connect().await?.close().await };
        tokio::time::timeout(settings.connect_timeout, first)
            .await
            .map_err(|_| {
                StoreError::Unavailable(format!(
                    "no connection within connect_timeout ({:?})",
                    settings.connect_timeout
                ))
            })?
            .map_err(from_sqlx)?;
        let renewal = Arc::new(patience::Renewal::default());
        let pool = patience::pool_options(settings, &renewal).connect_lazy_with(options.clone());
        Ok(Arc::new_cyclic(|me| Self {
            pool,
            heart: Mutex::new(None),
            options,
            listen,
            completions: broadcast::Sender::new(EVENTS_KEPT),
            recorded: Notify::new(),
            begin: AssertSqlSafe(begin).into_sql_str(),
            begin_together: OnceCell::new(),
            mark: Mutex::new(None),
            renewal,
            claims: Group::default(),
            completing: Group::default(),
            context_bytes: i64::from(limits.context_bytes),
            large_contexts: Mutex::new(()),
            me: me.clone(),
            named,
            call_timeout: patience::call_timeout(settings),
        }))
    }

    /// A transaction with its limits set. Dropped without a commit, it is rolled back.
    async fn begin(&self) -> Result<Tx, StoreError> {
        self.pool
            .begin_with(self.begin.clone())
            .await
            .map_err(from_sqlx)
    }

    fn sql(&self, text: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(text).persistent(self.named)
    }

    fn rows<T>(&self, text: &'static str) -> QueryAs<'static, Postgres, T, PgArguments>
    where
        T: for<'r> sqlx::FromRow<'r, PgRow>,
    {
        sqlx::query_as(text).persistent(self.named)
    }

    fn scalar<T>(&self, text: &'static str) -> QueryScalar<'static, Postgres, T, PgArguments>
    where
        (T,): for<'r> sqlx::FromRow<'r, PgRow>,
    {
        sqlx::query_scalar(text).persistent(self.named)
    }
}

async fn commit(tx: InTx<'_>) -> Result<(), StoreError> {
    tx.commit().await.map_err(from_sqlx)
}

async fn rollback(tx: InTx<'_>) -> Result<(), StoreError> {
    tx.rollback().await.map_err(from_sqlx)
}

/// Seconds for `make_interval(secs => $n)`.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[async_trait]
impl RunStore for PostgresStore {
    async fn claim(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        self.in_time(self.claim_run(run, worker, policy)).await
    }

    async fn complete(&self, claim: &Claim, completion: &Completion) -> Result<bool, StoreError> {
        self.in_time(self.complete_run(claim, completion)).await
    }

    async fn release(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Result<bool, StoreError> {
        self.in_time(self.release_run(claim, end, not_before)).await
    }

    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError> {
        self.in_time(self.sweep_runs(policy)).await
    }

    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError> {
        self.in_time(self.list_open_attempts(worker)).await
    }

    async fn disown(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError> {
        self.in_time(self.disown_attempts(worker, attempts)).await
    }

    async fn undeliver(&self, runs: &[RunId]) -> Result<(), StoreError> {
        self.in_time(self.undeliver_runs(runs)).await
    }

    async fn beat(&self, beat: &Beat) -> Result<(), StoreError> {
        self.in_time(self.beat_worker(beat)).await
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.in_time(self.retire_worker(worker)).await
    }

    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        self.in_time(self.record_run(new)).await
    }

    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        self.in_time(self.record_runs(new)).await
    }

    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        self.in_time(self.read_run(id)).await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError> {
        self.in_time(self.list_runs(filter)).await
    }

    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        self.in_time(self.summarise_run(id)).await
    }

    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError> {
        self.in_time(self.read_run_state(id)).await
    }

    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError> {
        self.in_time(self.list_run_states(binding, limit)).await
    }

    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        self.in_time(self.list_attempts(run)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.in_time(self.list_workers()).await
    }

    async fn counts(&self) -> Result<RunCounts, StoreError> {
        self.in_time(self.count_runs()).await
    }

    async fn prune(
        &self,
        policy: &PrunePolicy,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.in_time(self.prune_runs(policy, after)).await
    }

    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.in_time(self.delete_stray_attempts(batch, after)).await
    }

    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.in_time(self.count_prunable(older_than)).await
    }

    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        self.in_time(self.read_latest_report(connection)).await
    }
}

#[async_trait]
impl ConnectionStore for PostgresStore {
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        self.in_time(self.read_connection(id)).await
    }

    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError> {
        self.in_time(self.read_starting_point(id)).await
    }

    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        self.in_time(self.write_facts(kept)).await
    }

    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError> {
        self.in_time(self.list_connections(tenant, after, limit))
            .await
    }

    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError> {
        self.in_time(self.insert_connection(new, seal)).await
    }

    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
    ) -> Result<bool, StoreError> {
        self.in_time(self.update_connection_status(id, status))
            .await
    }

    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError> {
        self.in_time(self.replace_credential(id, sealed)).await
    }

    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        self.in_time(self.list_credentials(after, limit)).await
    }

    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
    ) -> Result<bool, StoreError> {
        self.in_time(self.swap_payload(id, old_payload, new_payload))
            .await
    }

    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError> {
        self.in_time(self.list_permissions(tenant)).await
    }

    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        self.in_time(self.read_freshness(tenant)).await
    }
}

#[async_trait]
impl SchemaStore for PostgresStore {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.run_migrations().await
    }

    async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        self.in_time(self.applied_version()).await
    }

    fn wanted_schema_version(&self) -> i64 {
        super::migrations::WANTED_VERSION
    }

    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError> {
        self.in_time(self.inspect_schema()).await
    }

    async fn schema_mark(&self) -> Result<String, StoreError> {
        self.in_time(self.read_schema_mark()).await
    }

    async fn guards(&self) -> Result<Guards, StoreError> {
        self.in_time(self.find_guards()).await
    }

    async fn enforce(&self) -> Result<Enforced, StoreError> {
        self.enforce_guards().await
    }

    async fn ping(&self) -> Result<String, StoreError> {
        self.in_time(self.server_version()).await
    }

    async fn close(&self) {
        self.close_connections().await;
    }
}

#[cfg(test)]
mod tests {

    #[test]
    fn the_literal_is_the_domains_type() {
        assert_eq!(run_type!(), format!("'{}'", crate::domain::run::RUN_TYPE));
    }
}
