//! Signals: the first drains, the second ends at once.

use std::time::Duration;
use test_support::bench::Bench;
use verifyd_simulator::{Scenario, SimulatorOptions};

fn slow() -> SimulatorOptions {
    SimulatorOptions {
        slow_answer: Duration::from_millis(700),
        ..SimulatorOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_work() {
    let bench = Bench::with(slow()).await;
    let id = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
    let mut daemon = bench.serve(&[]);
    bench.enqueue(id);
    bench.count_is("running", 1).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    let succeeded = "operation_runs WHERE outcome = 'succeeded'";
    assert_eq!(bench.count(succeeded).await, 1);
    assert_eq!(bench.count("verifyd.workers").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_period_the_rest_goes_back_uncounted() {
    let bench = Bench::new().await;
    let id = bench.connection(1, &Scenario::ProviderTimeout.tenant_id(1), "health_check");
    let mut daemon = bench.serve(&[("VERIFYD__WORKER__GRACE_PERIOD", "300ms")]);
    bench.enqueue(id);
    bench.count_is("running", 1).await;
    daemon.signal("INT");
    assert_eq!(daemon.ended(), Some(0));
    bench.count_is("queued", 1).await;
    let uncounted = "verifyd.run_attempts WHERE end_reason = 'shutdown' AND NOT counted";
    assert_eq!(bench.count(uncounted).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let bench = Bench::new().await;
    let id = bench.connection(1, &Scenario::ProviderTimeout.tenant_id(1), "health_check");
    let mut daemon = bench.serve(&[]);
    bench.enqueue(id);
    bench.count_is("running", 1).await;
    daemon.signal("TERM");
    daemon.wait_for("stopping: finishing runs in flight");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(130));
}
