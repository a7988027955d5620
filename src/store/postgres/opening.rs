//! Opens connections in tasks of their own, which outlast the callers that began them.
//!
//! To sign in may take longer than a caller has: on a loaded server, or behind a pooler that opens sessions slowly. If an
//! opening ended with its caller, the next one would begin anew, and none would ever have a connection.

use super::PostgresStore;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Error, Postgres};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;
use tokio_util::task::AbortOnDropHandle;

/// Longest time to open the connection for heartbeats, where `database.acquire_timeout` is shorter. By default PostgreSQL
/// ends a sign-in after as long.
const MAX_OPENING_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection reserved for heartbeats. Behind busy connections of the pool a heartbeat would come late, and cost the
/// process all its runs.
#[derive(Default)]
pub(super) struct HeartbeatConnection {
    open: Option<OpenConnection>,
    opening: Option<Opening>,
    /// Openings in a row that have taken too long.
    too_long: u32,
}

pub(super) struct OpenConnection {
    pub connection: PgConnection,
    /// When its opening began.
    began: Instant,
}

struct Opening {
    task: AbortOnDropHandle<Result<Result<PgConnection, Error>, Elapsed>>,
    began: Instant,
}

impl HeartbeatConnection {
    /// Takes the connection. Where there is none, or one to a former primary, waits for one that is opened. That goes on
    /// when the caller has gone, and the next caller waits for it.
    pub async fn take(&mut self, store: &PostgresStore) -> Result<OpenConnection, Error> {
        let is_current = |began: Instant| !store.renewal.is_before(began.elapsed());
        if let Some(open) = self.open.take()
            && is_current(open.began)
        {
            return Ok(open);
        }
        let under_way = self
            .opening
            .take()
            .filter(|opening| is_current(opening.began));
        let timeout = opening_timeout(store.connector.opening_timeout, self.too_long);
        let opening = self
            .opening
            .insert(under_way.unwrap_or_else(|| Opening::begin(store, timeout)));
        let opened = (&mut opening.task).await;
        let began = opening.began;
        self.opening = None;
        let opened = opened.map_err(|_| Error::WorkerCrashed)?;
        self.too_long = match opened {
            Ok(_) => 0,
            Err(_) => self.too_long.saturating_add(1),
        };
        let connection = opened.map_err(|_| Error::Io(ErrorKind::TimedOut.into()))??;
        Ok(OpenConnection { connection, began })
    }

    /// Keeps a connection for the next heartbeat.
    pub fn put_back(&mut self, open: OpenConnection) {
        self.open = Some(open);
    }
}

impl Opening {
    fn begin(store: &PostgresStore, timeout: Duration) -> Self {
        let connector = Arc::clone(&store.connector);
        let opening = async move {
            let mut connection = connector.connect().await?;
            // A pooler lets a client sign in before it has a session for it.
            connection.ping().await?;
            Ok::<_, Error>(connection)
        };
        Self {
            began: Instant::now(),
            task: AbortOnDropHandle::new(tokio::spawn(tokio::time::timeout(timeout, opening))),
        }
    }
}

/// The timeout of an opening after so many that have taken too long. It doubles, as both may be: the server is slow, or
/// nothing passes on the connection.
fn opening_timeout(first: Duration, too_long: u32) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(too_long));
    doubled.min(MAX_OPENING_TIMEOUT).max(first)
}

impl PostgresStore {
    /// Takes a connection from the pool. One that has to be opened for that comes into the pool also when the caller has
    /// gone meanwhile, within `database.acquire_timeout`. The opening of one that replaces an idle one ends with its caller,
    /// and leaves one idle one less.
    pub(super) async fn pooled(&self) -> Result<PoolConnection<Postgres>, Error> {
        let acquiring = self.pool.acquire();
        let is_full = self.pool.size() >= self.pool.options().get_max_connections();
        if is_full || self.pool.num_idle() > 0 {
            return acquiring.await;
        }
        let acquired = tokio::spawn(acquiring).await;
        acquired.unwrap_or(Err(Error::WorkerCrashed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_that_took_too_long_is_followed_by_one_with_more_time() {
        for (first, too_long, timeout) in [
            (5, 0, 5),
            (5, 1, 10),
            (5, 3, 40),
            (5, 4, 60),
            (5, 90, 60),
            (300, 2, 300),
        ] {
            let found = opening_timeout(Duration::from_secs(first), too_long);
            assert_eq!(found.as_secs(), timeout, "{first} {too_long}");
        }
    }
}
