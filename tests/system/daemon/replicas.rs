//! Two replicas, one database.

use serde_json::Value;
use sqlx::Row as _;
use test_support::bench::Bench;
use test_support::redis_server::PrivateRedis;
use verifyd::domain::Outcome;
use verifyd::domain::report::schema;
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

    // A run of another type, which must stay as it is.
    let foreign = bench
        .numbers(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
             VALUES (1, 1, 'inventory.sync', 'completed', '{\"own\": true}', now())
             RETURNING id",
        )
        .await[0];

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
    let each = RUNS / i64::try_from(CONNECTIONS).unwrap() - 1;
    bench.record(&all, each).await;
    bench.all_completed().await;

    let rows = sqlx::query(
        "SELECT id, outcome, context, failure_summary FROM operation_runs
         WHERE type = 'provider.connection.check'",
    )
    .fetch_all(&mut bench.sql().await)
    .await
    .unwrap();
    assert_eq!(i64::try_from(rows.len()).unwrap(), RUNS);
    for row in rows {
        let context: Value = row.get("context");
        let connection = context["provider_connection_id"].as_i64().unwrap();
        let (expected, scenario) = &outcomes[&connection];
        let outcome: Outcome = row.get::<String, _>("outcome").parse().unwrap();
        let report = &context["verification_report"];
        assert_eq!(schema::validate(report), Ok(()));
        if connection == disabled {
            assert_eq!(outcome, Outcome::Blocked);
            assert_eq!(context["reason_code"], "connection_disabled");
        } else {
            assert_eq!(outcome.as_str(), expected.outcome, "{scenario}");
            assert_eq!(report["summary"]["overall"], expected.overall, "{scenario}");
        }
    }
    // Once each, nothing left behind, and the other application's row is as it was.
    let twice = "SELECT run_id FROM verifyd.run_attempts GROUP BY run_id HAVING count(*) <> 1";
    assert_eq!(bench.numbers(twice).await, Vec::<i64>::new());
    let open = "verifyd.run_attempts WHERE ended_at IS NULL";
    assert_eq!(bench.count(open).await, 0);
    assert_eq!(bench.count("verifyd.run_deliveries").await, 0);
    let workers = "SELECT count(DISTINCT worker_id) FROM verifyd.run_attempts";
    assert_eq!(
        bench.numbers(workers).await,
        [2],
        "both replicas have worked"
    );
    let untouched = format!(
        "SELECT count(*) FROM operation_runs WHERE id = {foreign} AND started_at IS NULL
         AND context = '{{\"own\": true}}'"
    );
    assert_eq!(bench.numbers(&untouched).await, [1]);

    for daemon in [&mut first, &mut second] {
        daemon.ready().await;
        assert_eq!(daemon.get("/healthz").await.0, 200);
        let (_, metrics) = daemon.get("/metrics").await;
        let succeeded = "verifyd_runs_processed_total{result=\"succeeded\"} ";
        let counted = metrics.lines().find_map(|l| l.strip_prefix(succeeded));
        assert!(counted.is_some_and(|n| n != "0"), "{metrics}");
        daemon.signal("TERM");
        assert_eq!(daemon.ended(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_s_run_is_completed_by_the_other() {
    let bench = Bench::new().await;
    let slow = Scenario::Slow.tenant_id(1);
    let id = bench.connection(1, &slow, "health_check");
    let first = bench.serve(&[]);
    bench.enqueue(id);
    bench.count_is("running", 1).await;
    first.signal("KILL");
    let _second = bench.serve(&[]);
    bench.all_completed().await;
    let succeeded = "operation_runs WHERE outcome = 'succeeded'";
    assert_eq!(bench.count(succeeded).await, 1);
    let lost = "SELECT attempt::bigint FROM verifyd.run_attempts WHERE end_reason = 'worker_lost'";
    assert_eq!(bench.numbers(lost).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_database_is_polled() {
    let bench = Bench::new().await;
    let id = bench.healthy(1);
    let url = PrivateRedis::stopped().url();
    let daemon = bench.serve(&[("REDIS_URL", &url)]);
    // Before there is anything to do, too.
    daemon.ready().await;
    bench.record(&[id], 20).await;
    bench.all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_flushed_while_runs_are_queued_loses_nothing() {
    let mut redis = PrivateRedis::start();
    let mut bench = Bench::new().await;
    bench.environment.insert("REDIS_URL".into(), redis.url());
    let id = bench.healthy(1);
    // Recorded and hinted while nobody works; then Redis forgets everything.
    bench.enqueue(id);
    bench.record(&[id], 30).await;
    redis.restart();
    let _daemon = bench.serve(&[("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s")]);
    bench.all_completed().await;
    redis.stop();
}
