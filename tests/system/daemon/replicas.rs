//! Two replicas, one database.

use serde_json::Value;
use sqlx::Row as _;
use test_support::bench::Bench;
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

/// A bare row, as another application inserts it inside its own transaction.
const INSERT: &str = "
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
    SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
           jsonb_build_object(
               'provider', 'microsoft', 'module', c.module, 'provider_connection_id', c.id,
               'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id),
               'requested_by', 'the other application'),
           now()
    FROM provider_connections c, generate_series(1, $1) ORDER BY random()";

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
    assert!(
        bench
            .run(&["connections", "disable", &disabled.to_string()], "")
            .status
            .success()
    );

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
    let mut sql = bench.sql().await;
    for id in outcomes.keys() {
        let enqueue = ["enqueue", "--connection", &id.to_string(), "--json"];
        if *id != disabled {
            let run = bench.json(&enqueue, "");
            assert!(run["operation_run_id"].as_i64().unwrap() > 0);
            continue;
        }
        // Only another application records a check of a disabled one.
        assert_eq!(bench.run(&enqueue, "").status.code(), Some(1));
        let insert = INSERT.replace("ORDER BY", &format!("WHERE c.id = {disabled} ORDER BY"));
        sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(1_i64)
            .execute(&mut sql)
            .await
            .unwrap();
    }
    let each = RUNS / i64::try_from(CONNECTIONS).unwrap() - 1;
    sqlx::query(INSERT)
        .bind(each)
        .execute(&mut sql)
        .await
        .unwrap();
    bench.all_completed().await;

    let rows = sqlx::query(
        "SELECT id, outcome, context, failure_summary FROM operation_runs
         WHERE type = 'provider.connection.check'",
    )
    .fetch_all(&mut sql)
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
    let twice = bench
        .numbers("SELECT run_id FROM verifyd.run_attempts GROUP BY run_id HAVING count(*) <> 1")
        .await;
    assert_eq!(twice, Vec::<i64>::new());
    let open = bench
        .numbers("SELECT run_id FROM verifyd.run_attempts WHERE ended_at IS NULL")
        .await;
    assert_eq!(open, Vec::<i64>::new());
    assert_eq!(
        bench
            .numbers("SELECT count(*) FROM verifyd.run_deliveries")
            .await,
        [0]
    );
    assert_eq!(
        bench
            .numbers("SELECT count(DISTINCT worker_id) FROM verifyd.run_attempts")
            .await,
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
    bench.json(&["enqueue", "--connection", &id.to_string(), "--json"], "");
    bench.count_is("running", 1).await;
    first.signal("KILL");
    let _second = bench.serve(&[]);
    bench.all_completed().await;
    assert_eq!(
        bench
            .numbers("SELECT count(*) FROM operation_runs WHERE outcome = 'succeeded'")
            .await,
        [1]
    );
    let attempts = bench
        .numbers(
            "SELECT attempt::bigint FROM verifyd.run_attempts WHERE end_reason = 'worker_lost'",
        )
        .await;
    assert_eq!(attempts, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_database_is_polled() {
    let bench = Bench::new().await;
    let id = bench.connection(1, &Scenario::Healthy.tenant_id(1), "health_check");
    // Nobody listens on a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("redis://127.0.0.1:{port}");
    let daemon = bench.serve(&[("REDIS_URL", &url)]);
    // Before there is anything to do, too.
    daemon.ready().await;
    let mut sql = bench.sql().await;
    sqlx::query(INSERT)
        .bind(20i64)
        .execute(&mut sql)
        .await
        .unwrap();
    bench.all_completed().await;
    assert!(id > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_flushed_while_runs_are_queued_loses_nothing() {
    let mut redis = test_support::redis_server::PrivateRedis::start();
    let mut bench = Bench::new().await;
    bench.environment.insert("REDIS_URL".into(), redis.url());
    let id = bench.connection(1, &Scenario::Healthy.tenant_id(1), "health_check");
    // Recorded and hinted while nobody works; then Redis forgets everything.
    bench.json(&["enqueue", "--connection", &id.to_string(), "--json"], "");
    let mut sql = bench.sql().await;
    sqlx::query(INSERT)
        .bind(30i64)
        .execute(&mut sql)
        .await
        .unwrap();
    redis.restart();
    let _daemon = bench.serve(&[("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s")]);
    bench.all_completed().await;
    redis.stop();
}
