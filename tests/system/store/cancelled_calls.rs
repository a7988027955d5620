//! Calls whose caller goes away.

use crate::store::bed::settings;
use crate::store::fixtures::{bound, heartbeat};
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::sync::Arc;
use test_support::pgbouncer::PgBouncer;
use test_support::postgres::TestDatabase;
use test_support::proxy::{Act, Proxy, Rule};
use test_support::waiting::{until, within};
use test_support::world::operator;
use verifyd::domain::access::Scope;
use verifyd::domain::token;
use verifyd::ports::access::NewToken;
use verifyd::ports::store::{Store, StoreError};

/// The driver forgets a `BEGIN` whose answer nobody waits for. The next call on that connection would be
/// within the transaction of the one before, at its time.
#[tokio::test]
async fn a_call_that_is_cancelled_while_it_begins_leaves_no_transaction() {
    let database = TestDatabase::migrated().await;
    let (way, url) = Proxy::before(&database.url()).await;
    let mut direct = PgConnection::connect(&database.url()).await.unwrap();
    let mut settings = settings(&url);
    settings.max_connections = 1;
    for n in 1..=3 {
        // The pool is empty: a connection's first transaction is this call's.
        let store = verifyd::store::connect(&settings).await.unwrap();
        way.at(Rule {
            after: "",
            on: "BEGIN; SET LOCAL",
            act: Act::HoldReply,
            times: 1,
        });
        let call = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.counts().await }
        });
        way.has_acted(n).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        until("its transaction is open", async || {
            transactions(&mut direct).await == 1
        })
        .await;
        let clock = sqlx::query_scalar("SELECT clock_timestamp()");
        let later: DateTime<Utc> = clock.fetch_one(&mut direct).await.unwrap();
        way.release();
        let new = NewToken {
            name: n.to_string(),
            hash: token::sha256_hex(&n.to_string()),
            scopes: vec![Scope::Read],
            binding: bound(3, Some(4)),
            expires_at: None,
        };
        let added = store.add_token(&new, operator()).await.unwrap();
        assert!(added.created_at >= later, "it is as old as the one before");
    }
}

/// Open transactions that execute nothing.
async fn transactions(sql: &mut PgConnection) -> i64 {
    const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'idle in transaction'";
    sqlx::query_scalar(OPEN).fetch_one(sql).await.unwrap()
}

async fn call(store: Arc<dyn Store>, is_heartbeat: bool) -> Result<(), StoreError> {
    match is_heartbeat {
        true => store.heartbeat(&heartbeat("w1")).await.map(drop),
        false => store.counts().await.map(drop),
    }
}

/// The heartbeat has a connection of its own, other calls one of the pool.
#[tokio::test]
async fn signing_in_goes_on_when_the_caller_has_gone() {
    let database = TestDatabase::migrated().await;
    let (way, url) = Proxy::before(&database.url()).await;
    let mut settings = settings(&url);
    settings.max_connections = 1;
    let store = verifyd::store::connect(&settings).await.unwrap();
    // Every further connection waits for a release when it signs in.
    way.at(Rule::once(Act::HoldRequest, "application_name").times(u32::MAX));
    for (acted, is_heartbeat) in [(1, true), (2, false)] {
        let gone = tokio::spawn(call(Arc::clone(&store), is_heartbeat));
        way.has_acted(acted).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        way.release();
        let next = call(Arc::clone(&store), is_heartbeat);
        let answer = within("the next call has the connection", next).await;
        answer.unwrap();
    }
}

/// Clients of the pooler that wait for a session.
async fn waiting(console: &mut PgConnection) -> i64 {
    let pools = sqlx::raw_sql("SHOW POOLS")
        .fetch_all(console)
        .await
        .unwrap();
    let clients = pools
        .iter()
        .map(|pool| pool.try_get_unchecked::<i64, _>("cl_waiting").unwrap());
    clients.sum()
}

/// A pooler lets a client sign in before it has a session for it, and serves those that wait in turn.
#[tokio::test]
async fn a_heartbeat_keeps_its_turn_at_a_pooler() {
    let database = TestDatabase::migrated().await;
    let pooler = PgBouncer::in_session_mode(&database.url(), 1);
    let url = pooler.url_of(&database.url());
    let store = verifyd::store::connect(&settings(&url)).await.unwrap();
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.extra_float_digits(None);
    let console = options.clone().database("pgbouncer");
    let mut console = console.connect().await.unwrap();
    let mut first = options.connect().await.unwrap();
    first.ping().await.unwrap();
    let gone = tokio::spawn(call(Arc::clone(&store), true));
    until("the heartbeat waits", async || {
        waiting(&mut console).await == 1
    })
    .await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let last = tokio::spawn(async move {
        let mut last = options.connect().await.unwrap();
        last.ping().await.unwrap();
        std::future::pending::<()>().await;
    });
    until("another client waits behind it", async || {
        waiting(&mut console).await == 2
    })
    .await;
    first.close().await.unwrap();
    let beat = within("it is next", call(store, true)).await;
    beat.unwrap();
    last.abort();
}
