//! Timeouts on the client's side, for connections that are open and pass nothing.
//!
//! A firewall that forgets a connection leaves it open here. So no call waits for longer than the server may
//! take, and no connection enters or leaves the pool without having answered. One that did not is closed and
//! replaced.

use super::PostgresStore;
use super::connector::Connector;
use super::opening::HeartbeatConnection;
use crate::ports::store_error::StoreError;
use crate::store::settings::DatabaseSettings;
use crate::store::sql::sql;
use crate::store::sql_store::within;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, Row as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that a call may take beyond waiting for a free connection and the longest statement.
const GRACE: Duration = Duration::from_secs(5);

/// Time for a returned connection to answer. The server may still be busy with the statement of a caller that
/// has gone; the connection is then closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time after which a connection is closed: before most firewalls forget it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Age at which a connection is closed once it is free, so that all reach a new server.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection that was returned within this time has just answered: under load it is not tested again.
const RECENTLY_RETURNED: Duration = Duration::from_millis(100);

/// Longest time for all connections to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time within which every connection is returned to the pool, also by tasks that keep one.
const RENEWED_WITHIN: Duration = Duration::from_secs(60);

/// Whether the transaction may write: on a standby, and where the settings of the database or role have it only read,
/// it may not.
macro_rules! may_write {
    () => {
        "current_setting('transaction_read_only') = 'off'"
    };
}

/// See `may_write`.
pub(super) const MAY_WRITE: &str = sql!("SELECT " may_write!());

/// Whether the server is a standby, and whether a transaction may write.
pub(super) const ROLE: &str = sql!("SELECT pg_is_in_recovery(), " may_write!());

/// The database cluster of a primary, and its timeline: a standby that is promoted begins a later one.
pub(super) const TIMELINE: &str = "
    SELECT system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
    FROM pg_control_system()";

/// When connections were last due to be reopened: statements that were prepared before the schema changed may
/// fail for ever, a session keeps the settings of its database and role with which it was opened, and one with a former
/// primary must not go on.
#[derive(Debug, Default)]
pub(super) struct Renewal(Mutex<Option<Instant>>);

impl Renewal {
    pub fn begin(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether it began within the last moments.
    pub fn is_recent(&self) -> bool {
        let begun = *self.0.lock();
        begun.is_some_and(|at| at.elapsed() < RENEWED_WITHIN)
    }

    /// Whether a connection of this age was opened before that.
    pub fn is_before(&self, age: Duration) -> bool {
        let begun = *self.0.lock();
        begun.is_some_and(|at| age >= at.elapsed())
    }
}

/// Longest time for one call.
pub(super) fn call_timeout(settings: &DatabaseSettings) -> Duration {
    settings
        .acquire_timeout
        .saturating_add(settings.statement_timeout)
        .saturating_add(GRACE)
}

/// A pool that closes what does not answer.
pub(super) fn pool_options(
    settings: &DatabaseSettings,
    renewal: &Arc<Renewal>,
    connector: &Arc<Connector>,
) -> PgPoolOptions {
    let renewal = Arc::clone(renewal);
    let (acquiring, releasing) = (Arc::clone(connector), Arc::clone(connector));
    // Leaves time to open another one.
    let before = (settings.acquire_timeout / 2).min(RELEASE_TIMEOUT);
    PgPoolOptions::new()
        .max_connections(settings.max_connections.max(1))
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        // The driver's own test has no timeout.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let old = renewal.is_before(meta.age);
            let connector = Arc::clone(&acquiring);
            Box::pin(async move {
                if old {
                    return Ok(false);
                }
                if meta.idle_for < RECENTLY_RETURNED {
                    return Ok(true);
                }
                let answers = answers(connection, before).await;
                answers.inspect_err(|_| connector.record_failure())
            })
        })
        .after_release(move |connection, _| {
            let connector = Arc::clone(&releasing);
            Box::pin(async move {
                let settled = tokio::time::timeout(RELEASE_TIMEOUT, settle(connection)).await;
                let may_write = settled
                    .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
                let is_kept = may_write.map(|may_write| may_write || connector.only_reads);
                if !matches!(is_kept, Ok(true)) {
                    connector.record_failure();
                }
                is_kept
            })
        })
}

/// Tests that the connection answers, leaves no transaction open on it, and returns whether its session may write.
/// The driver rolls back the transactions that it knows of, but not a `BEGIN` whose caller went before the answer.
///
/// A statement outside of an explicit transaction begins its own: both times are equal, unless one was begun
/// earlier. A session that was opened while the database only read, or on a standby, may stay so when others may
/// write again: it is replaced.
async fn settle(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const STATE: &str = sql!("SELECT now() < statement_timestamp(), " may_write!());
    let row = connection.fetch_one(sqlx::raw_sql(STATE)).await?;
    if row.try_get(0)? {
        connection.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    row.try_get(1)
}

/// An error has the pool close the connection without another word to the server.
async fn answers(connection: &mut PgConnection, within: Duration) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(within, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

impl PostgresStore {
    /// The call, within the time that the server could need. Nothing is known of what was under way.
    pub(super) async fn with_timeout<T, E: From<StoreError>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        within(self.in_process.call_timeout, call).await
    }

    /// Closes the connections of the pool, which nobody uses, so that their sessions are free.
    pub(super) async fn close_idle(&self) -> Result<(), StoreError> {
        // One that was just returned is waited for.
        while self.pool.size() > 0 {
            self.pool.acquire().await?.close().await?;
        }
        Ok(())
    }

    /// Closes all connections. One that is stuck ends with the process.
    pub(super) async fn close_connections(&self) {
        let close = async {
            // Dropping it closes it. The last heartbeat may be under way.
            *self.heartbeat_connection.lock().await = HeartbeatConnection::default();
            self.pool.close().await;
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }
}
