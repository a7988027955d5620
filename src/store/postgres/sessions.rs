//! Opens sessions of the server outside of the pool, to find out how many there are and whether a pooler shares them.
//!
//! Few are open at a time, and each is closed. A connection that waits in vain is dropped before the others are closed.
//! PgBouncer finds that its client has gone when a session is free for it, and gives the session to the next one. If the
//! client went a moment later, while its statement is under way, PgBouncer would end the session.

use crate::ports::store_error::StoreError;
use crate::store::error::opening;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use std::time::Duration;
use tokio::time::Instant;

/// How often the sessions of two connections are compared.
const ROUNDS: usize = 8;

/// Time for one further session. A pooler that has none free lets its client wait for minutes.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// Time within which the server ends a session that was closed.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
const BEFORE_NEXT_ATTEMPT: Duration = Duration::from_millis(50);

/// too_many_connections
const TOO_MANY: &str = "53300";

/// A setting of the session that only a direct connection can be opened with: a pooler in any mode refuses it, or
/// passes its own connection on, without it.
const DIRECT: &str = "verifyd.direct";
/// How PgBouncer refuses it.
const REFUSED_AT_STARTUP: &str = "08P01";

/// Counts the sessions of the role and database that come from the address of the pooler, where this connection has one
/// of the pooler's, and those of them that listen for verifyd. A pooler that has none free has opened all. Sessions that
/// were opened at that address without it look the same, so that it may have fewer.
const SESSIONS_FROM_POOLER: &str = "
    SELECT count(*), count(*) FILTER (WHERE a.query LIKE 'LISTEN \"verifyd\\_queued\"%')
    FROM pg_stat_activity o
    JOIN pg_stat_activity a ON a.datid = o.datid AND a.usesysid = o.usesysid
        AND a.client_addr IS NOT DISTINCT FROM o.client_addr AND a.backend_type = o.backend_type
    WHERE o.pid = pg_backend_pid()";

/// Whether a worker may be running: the longest interval of heartbeats is 5 minutes.
const HAS_WORKER: &str =
    "SELECT EXISTS (SELECT FROM verifyd.workers WHERE beat_at > now() - interval '6 minutes')";

/// What can be told of the sessions of a pooler.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PoolerSessions {
    /// As many could be opened at the same time.
    pub free: i64,
    /// It has no more with those of others; `None`: nothing is known.
    pub at_most: Option<i64>,
    /// Whether those of others may be a worker's, which opens no second time as many.
    pub has_worker: bool,
}

/// In one message: a pooler may give each message another session.
async fn session(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection);
    Ok(row.await?.try_get(0)?)
}

/// Connects. The server may count a session that was closed a moment ago.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    // Its first statement waits for a session, which is no slow statement.
    let options = options.clone().disable_statement_logging();
    let until = Instant::now() + ENDED_WITHIN;
    loop {
        match options.connect().await {
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(TOO_MANY) && Instant::now() < until => {}
            connected => return connected,
        }
        tokio::time::sleep(BEFORE_NEXT_ATTEMPT).await;
    }
}

/// Opens a connection that has a session: a pooler lets a client sign in before it has one for it.
async fn open(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let mut connection = connect(options).await?;
    session(&mut connection).await?;
    Ok(connection)
}

/// Opens two connections with a session each, where no pooler shares one.
pub(super) async fn open_two(
    options: &PgConnectOptions,
) -> Result<(PgConnection, PgConnection), StoreError> {
    let none = |which: &str| {
        let seconds = SESSION_TIMEOUT.as_secs();
        StoreError::Unavailable(
            format!("the server or pooler gave no {which}session within {seconds} s").into(),
        )
    };
    let Ok(first) = tokio::time::timeout(SESSION_TIMEOUT, open(options)).await else {
        return Err(none(""));
    };
    let first = first?;
    let second = tokio::time::timeout(SESSION_TIMEOUT, open(options)).await;
    let error = match second {
        Ok(Ok(second)) => return Ok((first, second)),
        Ok(Err(error)) => error,
        Err(_) => none("second "),
    };
    let _ = first.close().await;
    Err(error)
}

/// Opens connections with a session each, up to this number, and counts them with those of others, which only an open one
/// can tell. `listens_here`: whether workers listen through the pooler.
pub(super) async fn count(
    options: &PgConnectOptions,
    wanted: i64,
    listens_here: bool,
) -> Result<PoolerSessions, StoreError> {
    let mut opened = Vec::new();
    let mut found = PoolerSessions::default();
    while found.free < wanted {
        // An error is the pooler's answer to one client too many.
        let Ok(Ok(connection)) = tokio::time::timeout(SESSION_TIMEOUT, open(options)).await else {
            break;
        };
        opened.push(connection);
        found.free += 1;
    }
    if let Some(connection) = opened.last_mut() {
        let row = sqlx::raw_sql(SESSIONS_FROM_POOLER).fetch_one(&mut *connection);
        let row = row.await?;
        let (all, listening): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let elsewhere = if listens_here { 0 } else { listening };
        found.at_most = Some((all - elsewhere).max(found.free));
        // Before `migrate` there is no such table.
        let row = sqlx::raw_sql(HAS_WORKER).fetch_one(connection).await;
        found.has_worker = row.and_then(|row| row.try_get(0)).unwrap_or_default();
    }
    for connection in opened {
        let _ = connection.close().await;
    }
    Ok(found)
}

/// Returns whether two connections, used alternately, keep a session each. Without a pooler, and with one in session mode,
/// they do while they are open. One in transaction mode gives an idle session to both, and under load others.
pub(super) async fn keep_their_sessions(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<bool, StoreError> {
    let before = (session(first).await?, session(second).await?);
    if before.0 == before.1 {
        return Ok(false);
    }
    for round in 1..ROUNDS {
        // The other one first each second time: a pooler that shares sessions out in turn gives each the other's.
        let now = if round % 2 == 1 {
            let of_second = session(second).await?;
            (session(first).await?, of_second)
        } else {
            (session(first).await?, session(second).await?)
        };
        if now != before {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a pooler leaves each connection its session, as in session mode.
pub(super) async fn are_kept(options: &PgConnectOptions) -> Result<bool, StoreError> {
    let (mut first, mut second) = open_two(options).await?;
    let kept = keep_their_sessions(&mut first, &mut second).await?;
    first.close().await?;
    second.close().await?;
    Ok(kept)
}

/// Whether no pooler is on the way. Connects itself: a pool would try again where nothing listens, and not say so.
pub(super) async fn is_direct(options: &PgConnectOptions) -> Result<bool, StoreError> {
    let with_setting = options.clone().options([(DIRECT, "on")]);
    let mut connection = match connect(&with_setting).await.map_err(opening) {
        Err(error) if error.sqlstate() == Some(REFUSED_AT_STARTUP) => return Ok(false),
        connected => connected?,
    };
    let setting = format!("SELECT current_setting('{DIRECT}', true)");
    let row = sqlx::raw_sql(AssertSqlSafe(setting)).fetch_one(&mut connection);
    let direct: Option<String> = row.await?.try_get(0)?;
    connection.close().await?;
    Ok(direct.as_deref() == Some("on"))
}
