//! `migrate --partition-by-month` under the roles of `deploy/`, beside a worker.

use super::doctor::{answer, examined};
use test_support::bench::Bench;
use verifyd_simulator::SimulatorOptions;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_while_its_table_is_partitioned() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    bench.success(&["migrate"]);
    bench.grant().await;
    bench.become_role("verifyd_operator");
    let connection = bench.healthy(1);
    bench.become_role("verifyd_serve");
    let daemon = bench.serve(&[]);
    bench.become_role("verifyd_operator");
    bench.enqueue(connection);
    bench.all_completed().await;

    bench.become_role("verifyd_migrate");
    let plan = bench.json(&["migrate", "--plan", "--partition-by-month"]);
    assert_eq!(
        plan["partitioning"]["obstacles"],
        serde_json::json!([]),
        "{plan}"
    );
    let done = bench.json(&["migrate", "--partition-by-month"]);
    assert_eq!(done["partitions"], plan["partitioning"]["months"], "{done}");
    let again = bench.json(&["migrate"]);
    assert!(again["partitions"].is_null(), "{again}");

    bench.become_role("verifyd_operator");
    for _ in 0..3 {
        bench.enqueue(connection);
    }
    bench.all_completed().await;
    let succeeded = bench.count("operation_runs WHERE outcome = 'succeeded'");
    assert_eq!(succeeded.await, 4);
    bench.become_role("verifyd_serve");
    assert_eq!(examined(&bench), (0, vec![]));
    let (_, parts) = answer(&bench);
    let mut parts = parts.as_array().unwrap().iter();
    assert!(parts.any(|part| part["part"] == "partitions"));
    const YEAR: f64 = 360.0 * 86_400.0;
    assert!(daemon.metric("verifyd_partitions_left_seconds").await > YEAR);
}
