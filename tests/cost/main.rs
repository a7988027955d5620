//! What a run costs PostgreSQL and Redis, or the embedded database, counted: a regression shows on any
//! machine, however fast it is. The bounds are the numbers of docs/performance.md.
//!
//! The real binary, a PostgreSQL that counts statements (`pg_stat_statements`), a Redis of its own.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was counted")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/private_postgres.rs"]
mod private_postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis.rs"]
mod redis_support;

mod counted;
mod embedded;

use counted::{Cost, Counting};
use embedded::Embedded;
use proxy::Proxy;
use std::time::Duration;

/// One run after the other: each statement and each transaction for itself. This is also what an
/// operator waits for who starts a single check.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_comes_alone() {
    let counting = Counting::start().await;
    let (bench, connections) = counting.bench(2).await;
    let _worker = bench.serve(&[("VERIFYD__WORKER__CONCURRENCY", "1")]);
    // Tokens, role names and the inventory are known after the first.
    counting.complete(&bench, &connections, 2).await;
    let cost = counting.cost_of(&bench, &connections, 30).await;
    println!("alone: {cost:#?}");
    // Claim, what the check starts from, completion, freshness of the inventory, latest report.
    cost.at_most(&Cost {
        statements: 5.0,
        transactions: 3.0,
        wal_bytes: 5_000.0,
        // Two fetchers look once a second, too, however slow the machine is.
        redis_commands: 4.0,
        redis_bytes: 3_000.0,
    });
}

/// Many at the same time, and a server that is a little far away: what comes while a batch is under
/// way goes together.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_come_together() {
    let counting = Counting::start().await;
    let (bench, connections) = counting.bench(16).await;
    let (way, url) = Proxy::before(&bench.database.url()).await;
    way.slow(Duration::from_millis(3));
    let _worker = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "64"),
        ("DATABASE_URL", &url),
    ]);
    counting.complete(&bench, &connections, 1).await;
    let cost = counting.cost_of(&bench, &connections, 30).await;
    println!("together: {cost:#?}");
    cost.at_most(&Cost {
        statements: 1.0,
        transactions: 0.7,
        wal_bytes: 5_000.0,
        redis_commands: 2.2,
        redis_bytes: 1_800.0,
    });
}

/// The embedded default, one run after the other: one transaction that claims and one that completes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_comes_alone_on_the_embedded_database() {
    let embedded = Embedded::new(2, Duration::ZERO).await;
    let _worker = embedded.serve(&[("VERIFYD__WORKER__CONCURRENCY", "1")]);
    embedded.complete(2).await;
    let cost = embedded.cost_of(30).await;
    println!("embedded, alone: {cost:#?}");
    cost.at_most(&embedded::Cost {
        // The runs themselves, the heartbeat and the sweep write, too.
        transactions: 2.4,
        bytes: 95_000.0,
    });
}

/// Many at the same time, of which each waits a little for the provider.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_come_together_on_the_embedded_database() {
    let embedded = Embedded::new(16, Duration::from_millis(50)).await;
    let _worker = embedded.serve(&[("VERIFYD__WORKER__CONCURRENCY", "64")]);
    embedded.complete(1).await;
    let cost = embedded.cost_of(30).await;
    println!("embedded, together: {cost:#?}");
    cost.at_most(&embedded::Cost {
        transactions: 0.8,
        bytes: 40_000.0,
    });
}
