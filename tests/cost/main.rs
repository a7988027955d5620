//! What a run costs PostgreSQL and Redis, or the embedded database, counted: a regression shows on any
//! machine, however fast it is. The bounds are above the numbers of docs/explanation/performance.md: how many runs share
//! a batch depends on the machine.
//!
//! The real binary, a PostgreSQL that counts statements (`pg_stat_statements`), a Redis of its own. By
//! itself, so that nothing else is counted, and because the allocator counts, too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was counted")]

mod counted;
mod embedded;
mod metrics;

use counted::{Cost, Counting};
use embedded::Embedded;
use std::time::Duration;
use test_support::proxy::Proxy;

/// Runs that wait, and that nobody is to work on.
const LONG_QUEUE: i64 = 20_000;

/// One run after the other: each statement and each transaction for itself. This is also what an
/// operator waits for who starts a single check.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_comes_alone() {
    let counting = Counting::start().await;
    // Of two tenants one would have its turn now and then, and its hint be looked at for nothing.
    let (bench, connections) = counting.bench(1).await;
    let _worker = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "1"),
        // What is done by the clock would be more on a slow machine.
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "5m"),
        ("VERIFYD__WORKER__DEAD_AFTER", "1h"),
    ]);
    // Tokens, role names and the inventory are known after the first.
    counting.complete(&bench, &connections, 2).await;
    let cost = counting.cost_of(&bench, &connections, 60).await;
    println!("alone: {cost:#?}");
    // Claim and what the check starts from; completion, freshness of the inventory, latest report.
    cost.at_most(&Cost {
        // And one once in a while on a busy machine: it was seen once in 60 runs. What every run cost more would be 1.
        statements: 5.2,
        transactions: 2.1,
        wal_bytes: 5_500.0,
        redis_commands: 3.5,
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
        wal_bytes: 5_500.0,
        redis_commands: 2.2,
        redis_bytes: 1_800.0,
    });
}

/// A burst: the server's statistics are of a time when nothing was queued, as they are mostly. What a
/// run's statements look at must not grow with what waits besides.
#[tokio::test(flavor = "multi_thread")]
async fn runs_beside_a_long_queue() {
    let counting = Counting::start().await;
    let (bench, connections) = counting.bench(2).await;
    let _worker = bench.serve(&[("VERIFYD__WORKER__CONCURRENCY", "1")]);
    counting.complete(&bench, &connections, 2).await;
    counting.analyze(&bench).await;
    counting
        .leave_waiting(&bench, &connections, LONG_QUEUE / 2)
        .await;
    counting.forget(&bench).await;
    let runs = counting.send(&bench, &connections, 10).await as i64;
    bench.count_is("completed", runs + 4).await;
    // Claim and completion: rows by their keys, in some indexes each. All that is queued has more than
    // five hundred.
    for statement in ["WITH wanted AS", "^WITH locked AS MATERIALIZED"] {
        let (blocks, rows) = counting.blocks_for_each(&bench, statement).await;
        println!("{statement}: {blocks} blocks for each run");
        assert_eq!(rows, runs, "{statement}");
        assert!(blocks <= 150.0, "{statement}: {blocks} blocks for each run");
    }
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
