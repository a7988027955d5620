//! Fair queuing between tenants, on the real binary.

use std::io::Write as _;
use std::time::Duration;
use test_support::bench::Bench;
use verifyd::engine::reconciler::SWEEP_WINDOW;
use verifyd_simulator::{Scenario, SimulatorOptions};

/// Without fair queuing the others would be the last of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_ten_thousand_runs_does_not_keep_the_others_waiting() {
    const MANY: i64 = 10_000;
    let bench = Bench::new().await;
    let [large, small @ ..] = [1, 2, 3, 4].map(|tenant| bench.healthy(tenant));
    let runs = bench.record(&[large], MANY).await;
    // Their producer sends all of their hints, before the others'.
    bench.hint(&runs).await;
    let _daemon = bench.serve(&[("VERIFYD__WORKER__CONCURRENCY", "16")]);
    let claimed = "SELECT count(*) FROM operation_runs WHERE status <> 'queued'";
    bench.until(claimed, |n| n > 0).await;
    let waiting = "SELECT count(*) FROM operation_runs WHERE tenant_id = 1 AND status = 'queued'";
    let before = bench.numbers(waiting).await[0];
    for connection in small {
        bench.record(&[connection], 1).await;
    }
    let theirs = "SELECT count(*) FROM operation_runs WHERE tenant_id > 1 AND status = 'completed'";
    bench.until(theirs, |n| n == 3).await;
    let after = bench.numbers(waiting).await[0];
    assert!(
        after > before / 2 && before > 1000,
        "{before} runs were before them, {after} are left"
    );
    let waited = bench
        .numbers(
            "SELECT (1000 * max(extract(epoch FROM started_at - created_at)))::bigint
             FROM operation_runs WHERE tenant_id > 1",
        )
        .await[0];
    let _ = writeln!(
        std::io::stderr(),
        "measured: behind {before} runs of another tenant, three tenants waited {waited} ms at most, \
         {} runs long",
        before - after
    );
}

/// Of thousands that wait their hints were lost, and nobody sends them again for a while: sweeps pass them a
/// window at a time. One that no hint was sent for comes after them, and another, in a transaction that took
/// long, lies among them.
#[tokio::test(flavor = "multi_thread")]
async fn undispatched_runs_are_found_behind_thousands_that_wait() {
    const MANY: i64 = 3 * SWEEP_WINDOW as i64 + 100;
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench.record(&[connection], MANY).await;
    let delivered = "INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
        SELECT id, now() FROM operation_runs";
    bench.execute(delivered).await;
    let _daemon = bench.serve(&[
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
        ("VERIFYD__RECONCILER__INTERVAL", "50ms"),
    ]);
    let after = bench.record(&[connection], 1).await[0];
    let among = after - MANY / 2;
    let completed = |run| {
        format!("SELECT (status = 'completed')::int::bigint FROM operation_runs WHERE id = {run}")
    };
    bench.until(&completed(after), |n| n == 1).await;
    let forget = format!("DELETE FROM verifyd.run_deliveries WHERE run_id = {among}");
    bench.execute(&forget).await;
    bench.until(&completed(among), |n| n == 1).await;
    bench.count_is("queued", MANY - 1).await;
}

/// All slots for hints are taken by runs that are slow, and stay so.
#[tokio::test(flavor = "multi_thread")]
async fn slow_runs_of_one_tenant_leave_a_slot_for_the_others() {
    let options = SimulatorOptions {
        slow_answer: Duration::from_secs(600),
        ..SimulatorOptions::default()
    };
    let bench = Bench::with(options).await;
    let slow = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
    let quick = bench.healthy(2);
    bench.record(&[slow], 20).await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "2"),
        ("VERIFYD__WORKER__RUN_DEADLINE", "15m"),
        ("VERIFYD__WORKER__TOTAL_DEADLINE", "30m"),
        ("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "2m"),
    ]);
    bench.count_is("running", 2).await;
    bench.record(&[quick], 1).await;
    let theirs = "SELECT count(*) FROM operation_runs WHERE tenant_id = 2 AND status = 'completed'";
    bench.until(theirs, |n| n == 1).await;
    let first = "SELECT count(*) FROM verifyd.run_attempts WHERE ended_at IS NULL AND attempt = 1";
    assert_eq!(bench.numbers(first).await, [2]);
    assert!(daemon.metric("verifyd_fair_queuing_runs_total").await >= 1.0);
}
