//! A bare INSERT, with nothing but the notification to find it in time.

use std::time::Duration;
use test_support::bench::Bench;

/// The sweep, and with it the redelivery, is out of the question.
const RARELY: &[(&str, &str)] = &[
    ("VERIFYD__RECONCILER__INTERVAL", "5m"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "10m"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_insert_is_claimed_long_before_the_next_sweep() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let mut daemon = bench.serve(RARELY);
    daemon.wait_for("a bare INSERT wakes this worker");
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let run = bench.record(&[connection], 1).await[0];
        let status = format!(
            "SELECT count(*) FROM operation_runs WHERE id = {run} AND status = 'completed'"
        );
        bench.until(&status, |n| n > 0).await;
        let waited = format!(
            "SELECT (extract(epoch FROM started_at - created_at) * 1000)::bigint \
             FROM operation_runs WHERE id = {run}"
        );
        let waited = bench.numbers(&waited).await[0];
        slowest = slowest.max(Duration::from_millis(waited.unsigned_abs()));
    }
    println!("from the INSERT to the claim: {slowest:?} at most");
    assert!(slowest < Duration::from_secs(30), "{slowest:?}");
}
