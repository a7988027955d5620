//! A bare INSERT, with nothing but the notification to find it in time.

use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};
use verifyd_simulator::Scenario;

/// The sweep, and with it the redelivery, is out of the question.
const RARELY: &[(&str, &str)] = &[
    ("VERIFYD__RECONCILER__INTERVAL", "5m"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "10m"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_insert_is_claimed_long_before_the_next_sweep() {
    let bench = Bench::new().await;
    let connection = bench.connection(1, &Scenario::Healthy.tenant_id(0), "health_check");
    let mut daemon = bench.serve(RARELY);
    daemon.wait_for("a bare INSERT wakes this worker");
    let insert = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at) \
         SELECT workspace_id, tenant_id, 'provider.connection.check', 'queued', \
                jsonb_build_object('provider', 'microsoft', 'module', module, \
                    'provider_connection_id', id, \
                    'target_scope', jsonb_build_object('entra_tenant_id', entra_tenant_id)), now() \
         FROM provider_connections WHERE id = {connection} RETURNING id"
    );
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let run = bench.numbers(&insert).await[0];
        let status = format!(
            "SELECT count(*) FROM operation_runs WHERE id = {run} AND status = 'completed'"
        );
        let until = Instant::now() + PATIENCE;
        while bench.numbers(&status).await[0] == 0 {
            assert!(Instant::now() < until, "the run is not completed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let waited = bench
            .numbers(&format!(
                "SELECT (extract(epoch FROM started_at - created_at) * 1000)::bigint \
                 FROM operation_runs WHERE id = {run}"
            ))
            .await[0];
        slowest = slowest.max(Duration::from_millis(waited.unsigned_abs()));
    }
    println!("from the INSERT to the claim: {slowest:?} at most");
    assert!(slowest < Duration::from_secs(30), "{slowest:?}");
}
