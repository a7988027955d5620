//! A bare INSERT, with nothing but the notification to find it in time.

use test_support::bench::Bench;

/// The sweep, and with it the redelivery, is out of the question: nobody waits for two of them in a row.
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
    // One that is recorded after a sweep would wait for all of its interval.
    for _ in 0..10 {
        let run = bench.record(&[connection], 1).await[0];
        let completed = format!(
            "SELECT count(*) FROM operation_runs WHERE id = {run} AND status = 'completed'"
        );
        bench.until(&completed, |n| n > 0).await;
    }
}
