//! Limits on this side: a server that is cut off tells nobody that a connection is dead.
//!
//! A firewall that forgets a connection leaves it open here, with nothing passing any more. So no
//! call waits for longer than the server may take, and no connection gets into the pool, or out of
//! it, without having answered. One that did not is closed, and another one takes its place.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::settings::DatabaseSettings;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, Row as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a call may take beyond a free connection and one statement that uses up its time.
const GRACE: Duration = Duration::from_secs(5);

/// How long a connection that is given back may take to answer. The server may still be busy with
/// the statement of a caller that has gone; the connection is then closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was unused for this long is closed: before most firewalls forget it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A connection that is older is closed once it is free, so that all find their way to a new server.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection that was given back no longer ago has answered just now: under load it is not asked
/// again.
const JUST_NOW: Duration = Duration::from_millis(100);

/// Longest time for all connections to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// By then every connection was given back to the pool once, also by those who keep one.
const RENEWED_WITHIN: Duration = Duration::from_secs(60);

/// When connections were last to be opened anew: statements that were prepared before the schema changed
/// may fail for ever.
#[derive(Debug, Default)]
pub(super) struct Renewal(Mutex<Option<Instant>>);

impl Renewal {
    pub fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it began within the last moments.
    pub fn is_recent(&self) -> bool {
        let begun = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.is_some_and(|at| at.elapsed() < RENEWED_WITHIN)
    }

    /// Whether a connection of this age was opened before that.
    pub fn is_before(&self, age: Duration) -> bool {
        let begun = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
pub(super) fn pool_options(settings: &DatabaseSettings, renewal: &Arc<Renewal>) -> PgPoolOptions {
    let renewal = Arc::clone(renewal);
    // Leaves time to open another one.
    let before = (settings.acquire_timeout / 2).min(RELEASE_TIMEOUT);
    PgPoolOptions::new()
        .max_connections(settings.max_connections.max(1))
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        // The driver's own test waits for ever.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let old = renewal.is_before(meta.age);
            Box::pin(async move {
                Ok(!old && (meta.idle_for < JUST_NOW || answers(connection, before).await?))
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                match tokio::time::timeout(RELEASE_TIMEOUT, settle(connection)).await {
                    Ok(settled) => settled.map(|()| true),
                    Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
                }
            })
        })
}

/// Has the connection answer, and leaves no transaction open on it. The driver rolls back what it knows to
/// have begun; of a `BEGIN` whose caller has gone before the answer it does not know.
///
/// A statement that is sent by itself begins its transaction: both times are the same, but within one that
/// was begun earlier.
async fn settle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const IS_OPEN: &str = "SELECT now() < statement_timestamp()";
    let row = connection.fetch_one(sqlx::raw_sql(IS_OPEN)).await?;
    if row.try_get(0)? {
        connection.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    Ok(())
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
        match tokio::time::timeout(self.call_timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable("no answer in time".into()).into()),
        }
    }

    /// Closes all connections. One that is stuck ends with the process.
    pub(super) async fn close_connections(&self) {
        // Nobody beats any more: dropping it closes it.
        *self.heartbeat_connection.lock().await = None;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.pool.close()).await;
    }
}
