//! PostgreSQL, version 15 and later.
//!
//! Every statement runs inside an explicit transaction that sets its own limits with `SET LOCAL` in the same
//! round trip as `BEGIN`. So nothing belongs to the session, and a pooler in transaction mode (PgBouncer) may
//! share the server's connections: no startup option, no session variable, no session lock. Prepared
//! statements: PgBouncer from 1.21 tracks them (`max_prepared_statements`); for older ones
//! `?statement-cache-capacity=0` in the URL makes every statement an unnamed one, prepared and used within
//! the same transaction.
//!
//! The application's columns are read through `::timestamptz`, so that both `timestamp with time zone` and
//! Laravel's `timestamp without time zone` (as UTC) work.

mod batching;
mod claim;
mod complete;
mod completion_events;
mod connection;
mod connector;
mod dependents;
mod environment;
mod following;
mod guards;
mod indexes;
mod inspect;
mod inventory;
mod opening;
mod options;
mod partitions;
mod password;
mod private;
mod privileges;
mod probe;
mod recording;
mod relation;
mod replica;
mod schema;
mod sessions;
mod timeline;
mod timeouts;
mod tls_files;
mod wake;
mod webhook_deliveries;
mod workers;

pub(super) use batching::LOCK_TIMEOUT;
pub use private::Private;

use self::connector::Connector;
use self::opening::HeartbeatConnection;
use super::End;
use super::dialect::{is_failed_completion, run_type};
use super::error::connecting;
use super::settings::{DatabaseSettings, LISTEN_OFF, LimitSettings};
use super::shares::Share;
use super::sql_store::InProcess;
use crate::ports::store_error::StoreError;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{AssertSqlSafe, Connection, Postgres, SqlSafeStr, SqlStr, Transaction};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// Keys of the advisory locks, each with "verifyd" in front (the first of two integers).
pub(super) const ADVISORY_SPACE: i32 = 0x7665_7269;
const ADVISORY_MIGRATE: i32 = 1;
// 2 was the sweep's.
pub(super) const ADVISORY_PRUNE: i32 = 3;

/// Whether the table `$1` has the index that fair queuing needs.
pub(super) const HAS_FAIR_QUEUING_INDEX: &str = indexes::FAIR_QUEUING.there;

/// How long a transaction may wait for its own process before the server ends it, beyond the statement
/// timeout: a process that was stopped must not keep its locks.
const IDLE_GRACE: Duration = Duration::from_secs(10);

type Tx = Transaction<'static, Postgres>;

/// A PostgreSQL database.
pub(super) struct PostgresStore {
    pool: PgPool,
    heartbeat_connection: Mutex<HeartbeatConnection>,
    connector: Arc<Connector>,
    /// Opens the connection that listens, the same one without an address of its own; `None` when listening is off.
    listen: Option<Arc<Connector>>,
    /// `BEGIN` and the limits of every transaction.
    begin: SqlStr,
    /// The same for a batch; known once the server's features are known.
    begin_batch: OnceCell<SqlStr>,
    /// Of a statement of a batch.
    batch_timeout: Duration,
    /// The mark of the schema when it was last read.
    mark: Mutex<Option<String>>,
    renewal: Arc<timeouts::Renewal>,
    in_process: InProcess,
    /// Half of the pool for claims, in batches and outside.
    claims: Share,
    /// A third of it for completions and releases. Sweeps, health checks and lists need the rest.
    completions: Share,
    /// Itself, for the tasks that run the batches.
    me: Weak<Self>,
    /// Whether prepared statements have names and so outlive their transaction.
    named: bool,
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
    /// Opens the pool, and one connection within `acquire_timeout`.
    pub(super) async fn connect(
        settings: &DatabaseSettings,
        limits: LimitSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let connector = Connector::of(settings)?;
        let listen = match settings.listen_url.expose_secret() {
            LISTEN_OFF => None,
            "" => Some(Arc::clone(&connector)),
            _ => Some(connector.of_listening(settings)?),
        };
        // Not through the pool, which would try again until acquire_timeout and then not return the reason.
        let first = async {
            connector.open().await?.close().await?;
            Ok::<_, StoreError>(())
        };
        tokio::time::timeout(settings.acquire_timeout, first)
            .await
            .map_err(|_| {
                let timeout = settings.acquire_timeout;
                let why = format!("no connection within database.acquire_timeout ({timeout:?})");
                StoreError::Unavailable(why.into())
            })??;
        Ok(Self::of(connector, listen, settings, limits))
    }

    /// Opens the pool of the replica that `read_url` names. It connects once it is asked: nothing waits for a replica.
    pub(super) fn of_replica(
        settings: &DatabaseSettings,
        limits: LimitSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let connector = Connector::of_replica(settings)?;
        Ok(Self::of(connector, None, settings, limits))
    }

    fn of(
        connector: Arc<Connector>,
        listen: Option<Arc<Connector>>,
        settings: &DatabaseSettings,
        limits: LimitSettings,
    ) -> Arc<Self> {
        let statement = settings.statement_timeout.as_millis();
        let lock = settings.lock_timeout().as_millis();
        let idle = (settings.statement_timeout + IDLE_GRACE).as_millis();
        // No limit holds for the commit: rules that the application defers to it are checked with each statement. To
        // compile a statement takes longer than to execute it. A trigger may say whole rows in notices, which the driver
        // would read.
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}; \
             SET LOCAL jit = off; SET LOCAL client_min_messages = error; \
             SET LOCAL idle_in_transaction_session_timeout = {idle}; SET CONSTRAINTS ALL IMMEDIATE"
        );
        let switches = connector.switches();
        let renewal = Arc::new(timeouts::Renewal::default());
        let pool = timeouts::pool_options(settings, &renewal, &connector)
            .connect_lazy_with(connector.options());
        let named = connector.named;
        let store = Arc::new_cyclic(|me| Self {
            pool,
            heartbeat_connection: Mutex::default(),
            connector,
            listen,
            begin: AssertSqlSafe(begin).into_sql_str(),
            begin_batch: OnceCell::new(),
            batch_timeout: settings.batch_timeout(),
            mark: Mutex::new(None),
            renewal,
            in_process: InProcess::new(limits, Some(timeouts::call_timeout(settings))),
            claims: Share::new(settings.max_connections / 2, settings.acquire_timeout),
            completions: Share::new(settings.max_connections / 3, settings.acquire_timeout)
                .serving_in_order(),
            me: me.clone(),
            named,
        });
        if store.may_change() {
            tokio::spawn(following::follow(Arc::downgrade(&store), switches));
        }
        store
    }

    /// A transaction with its limits set. Dropped without a commit, it is rolled back.
    async fn begin(&self) -> Result<Tx, StoreError> {
        let begun = match self.pooled().await {
            Ok(connection) => Tx::begin(connection, Some(self.begin.clone())).await,
            Err(error) => Err(error),
        };
        begun.map_err(|error| self.refused(error))
    }

    /// The error of a connection that could not be had.
    fn refused(&self, error: sqlx::Error) -> StoreError {
        self.connector.record_failure();
        connecting(error)
    }

    /// Runs `work` in one transaction within the timeout of a call, and commits it. An error rolls back.
    async fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.with_timeout(self.untimed_transaction(work)).await
    }

    /// Runs `work` in one transaction without a timeout, and commits it.
    async fn untimed_transaction<T, E: From<StoreError>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.begin().await?;
        let worked = work(&mut tx).await;
        commit_or_roll_back(tx, worked.map(End::Commit)).await
    }

    /// Runs `work` in one transaction within the timeout of a call; its result says whether to commit.
    async fn transaction_with_end<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<End<T>, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_timeout(async {
            let mut tx = self.begin().await?;
            let worked = work(&mut tx).await;
            commit_or_roll_back(tx, worked).await
        })
        .await
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

/// See [`End::reach`].
async fn commit_or_roll_back<T, E: From<StoreError>>(
    tx: Transaction<'_, Postgres>,
    worked: Result<End<T>, E>,
) -> Result<T, E> {
    End::reach(tx, worked, Transaction::commit, Transaction::rollback).await
}

/// Seconds for `make_interval(secs => $n)`.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
