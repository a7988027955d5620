//! Workers of groups of workspaces, each with a queue of its own, on the real binary.

use super::metrics::has_line;
use crate::pages::person::Person;
use test_support::bench::Bench;
use test_support::redis_server;
use test_support::waiting::until;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

/// With the group `eu`, and connections of the default group and of this one.
async fn with_groups() -> (Bench, [i64; 2]) {
    let mut bench = Bench::new().await;
    let groups = r#"[{ name = "eu", workspaces = [2] }]"#;
    bench.set("VERIFYD__WORKER__GROUPS", groups);
    let entra = Scenario::Healthy.tenant_id(2);
    let eu = bench.connection_of((2, 2), &entra, "health_check", SIMULATED_SECRET);
    let connections = [bench.healthy(1), eu];
    (bench, connections)
}

async fn waiting(bench: &Bench, queue: &str) -> u64 {
    let mut redis = redis_server::connection(&bench.redis_url).await;
    redis_server::command(&mut redis, &["LLEN", &format!("{queue}:active")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_has_workers_and_a_queue_of_its_own() {
    let (bench, [connection, eu]) = with_groups().await;
    let queue = format!("{}.eu", bench.queue);
    let rest = bench.serve(&[]);
    bench.enqueue(eu);
    assert_eq!(waiting(&bench, &queue).await, 1);
    // Its producer knows no groups.
    let hinted = bench.record(&[eu], 1).await;
    bench.hint(&hinted).await;
    bench.enqueue(connection);
    bench.count_is("completed", 1).await;
    until("the hint is handed over", async || {
        rest.metric("verifyd_hints_handed_over_total").await >= 1.0
    })
    .await;
    bench.count_is("queued", 2).await;

    // Nobody works on them, and everybody can see that.
    for line in [
        "verifyd_group_workers{group=\"default\"} 1",
        "verifyd_group_workers{group=\"eu\"} 0",
        // What waits for others makes an autoscaler start no worker here.
        "verifyd_group_oldest_queued_seconds{group=\"default\"} 0",
    ] {
        has_line(&rest, line).await;
    }
    let doctor = bench.run(&["doctor", "--json"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    for words in [
        "default: 0 queued, 0 running, 1 worker alive",
        "eu: 2 queued, 0 running, 0 workers alive",
        "group eu: 1 waiting",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let token = bench.token(&["read", "run", "admin"]);
    let base = format!("http://{}", rest.listening);
    let person = Person::logged_in(&base, &token).await;
    let unserved = "No worker of the group <bdi class=\"code\">eu</bdi> is alive";
    assert!(person.page("/workers").await.contains(unserved));

    let served = bench.serve(&[("VERIFYD__WORKER__GROUP", "eu")]);
    assert!(served.worker.starts_with("eu/"), "{}", served.worker);
    bench.all_completed().await;
    assert!(!person.page("/workers").await.contains(unserved));
    let misplaced = "verifyd.run_attempts a JOIN operation_runs r ON r.id = a.run_id
        WHERE (r.workspace_id = 2) <> (a.worker_id LIKE 'eu/%')";
    assert_eq!(bench.count(misplaced).await, 0);
    drop((rest, served));
    redis_server::remove_queue(&bench.redis_url, &queue).await;
}

/// Otherwise hints of another group could take all connections.
#[tokio::test(flavor = "multi_thread")]
async fn hand_overs_take_one_connection() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let (bench, [connection, eu]) = with_groups().await;
    let runs = bench.record(&[eu], 5).await;
    let delivered = "INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
        SELECT id, now() FROM operation_runs";
    bench.execute(delivered).await;
    let mut other = bench.sql().await;
    let lock = "BEGIN; SELECT run_id FROM verifyd.run_deliveries FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let rest = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "16"),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "1h"),
    ]);
    bench.hint(&runs).await;
    bench.until(WAITING, |waiting| waiting > 0).await;
    // Its hint comes after theirs.
    bench.enqueue(connection);
    bench.count_is("completed", 1).await;
    assert!(bench.numbers(WAITING).await[0] <= 1);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    until("all are handed over", async || {
        rest.metric("verifyd_hints_handed_over_total").await >= 5.0
    })
    .await;
}

/// Otherwise it would wait for its next interval, and the other group's sweep delivers nothing of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_sweeps_soon_after_the_sweep_of_another_one() {
    const TRIED: &str = "SELECT (coalesce(seq_scan, 0) + coalesce(idx_scan, 0))::bigint
        FROM pg_stat_user_tables WHERE relname = 'sweep_lock'";
    let (bench, [connection, _]) = with_groups().await;
    bench.record(&[connection], 1).await;
    let before = bench.numbers(TRIED).await[0];
    let mut other = bench.sql().await;
    let lock = "BEGIN; SELECT id FROM verifyd.sweep_lock FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let _daemon = bench.serve(&[
        ("VERIFYD__DATABASE__LISTEN_URL", "off"),
        ("VERIFYD__RECONCILER__INTERVAL", "5m"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "5m"),
    ]);
    // Once at the start, and whatever else looks at the table, is less.
    bench.until(TRIED, |tried| tried > before + 50).await;
    bench.count_is("queued", 1).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    bench.all_completed().await;
}
