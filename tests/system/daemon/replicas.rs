//! Two replicas, one database.

use test_support::bench::Bench;
use test_support::oracle;
use verifyd_simulator::Scenario;

/// Runs that are recorded, over so many connections.
const RUNS: i64 = 1000;
const CONNECTIONS: usize = 50;

/// Scenarios that end quickly, one for each outcome and more.
const SCENARIOS: [Scenario; 5] = [
    Scenario::Healthy,
    Scenario::HealthyIntune,
    Scenario::SecretExpired,
    Scenario::PermissionMissing,
    Scenario::ConsentMissing,
];

#[tokio::test(flavor = "multi_thread")]
async fn every_run_is_completed_once_however_it_was_recorded() {
    let bench = Bench::new().await;
    oracle::watch(&bench).await;
    let mut outcomes = std::collections::BTreeMap::new();
    for i in 0..CONNECTIONS {
        let scenario = SCENARIOS[i % SCENARIOS.len()];
        let number = u32::try_from(i).unwrap();
        let id = bench.connection(
            i64::from(number) + 1,
            &scenario.tenant_id(number),
            scenario.expectation().module,
        );
        outcomes.insert(id, (scenario.expectation(), scenario));
    }
    // Disabled ones end blocked.
    let disabled = *outcomes.keys().next().unwrap();
    bench.success(&["connections", "disable", &disabled.to_string()]);

    let mut first = bench.serve(&[]);
    let mut second = bench.serve(&[]);
    // Part by the command line with a hint, the others by bare rows without any.
    for id in outcomes.keys() {
        if *id != disabled {
            assert!(bench.enqueue(*id) > 0);
            continue;
        }
        // Only another application records a check of a disabled one.
        let enqueue = ["enqueue", "--connection", &id.to_string()];
        assert_eq!(bench.run(&enqueue).status.code(), Some(1));
        bench.record(&[disabled], 1).await;
    }
    let all: Vec<i64> = outcomes.keys().copied().collect();
    let of_each = RUNS / i64::try_from(CONNECTIONS).unwrap();
    bench.record(&all, of_each - 1).await;
    bench.all_completed().await;

    let ended = oracle::examine(&bench, 3).await;
    assert_eq!(i64::try_from(ended.len()).unwrap(), RUNS);
    for run in &ended {
        assert_eq!(run.attempts, ["completed"], "{run:?}");
    }
    for (id, (expected, scenario)) in &outcomes {
        let wanted = if *id == disabled {
            "outcome = 'blocked' AND context ->> 'reason_code' = 'connection_disabled'".to_owned()
        } else {
            format!(
                "outcome = '{}' AND context #>> '{{verification_report,summary,overall}}' = '{}'",
                expected.outcome, expected.overall
            )
        };
        let as_expected = format!(
            "operation_runs WHERE context ->> 'provider_connection_id' = '{id}' AND {wanted}"
        );
        assert_eq!(bench.count(&as_expected).await, of_each, "{scenario}");
    }
    assert_eq!(bench.count("verifyd.run_deliveries").await, 0);
    let workers = "SELECT count(DISTINCT worker_id) FROM verifyd.run_attempts";
    assert_eq!(
        bench.numbers(workers).await,
        [2],
        "both replicas have worked"
    );

    for daemon in [&mut first, &mut second] {
        daemon.ready().await;
        assert_eq!(daemon.get("/healthz").await.0, 200);
        let (_, metrics) = daemon.get("/metrics").await;
        let succeeded = "verifyd_runs_processed_total{result=\"succeeded\"} ";
        let counted = metrics.lines().find_map(|l| l.strip_prefix(succeeded));
        assert!(counted.is_some_and(|n| n != "0"), "{metrics}");
        daemon.terminate();
    }
}
