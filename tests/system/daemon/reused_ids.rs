//! The application makes its tables anew while verifyd runs: ids are given to other runs.

use test_support::bench::Bench;
use verifyd_simulator::Scenario;

/// Nothing but hints starts runs: no sweep finds them, and no notification.
const BY_HINTS: [(&str, &str); 2] = [
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ("VERIFYD__DATABASE__LISTEN_URL", "off"),
];

/// What attempts of the runs that are there ended with, and whether any was not the only one.
const OWN: &str =
    "SELECT count(*) FROM verifyd.run_attempts a JOIN operation_runs r ON r.id = a.run_id
    WHERE NOT a.earlier AND a.end_reason = 'completed' AND a.counted AND r.outcome = 'succeeded'";

/// With ids from 1 on: of the sequence those are used up that a test of the schema was given.
async fn record(bench: &Bench, connection: i64, runs: usize) -> Vec<i64> {
    let context = serde_json::json!({
        "provider": "microsoft", "module": "health_check", "provider_connection_id": connection,
        "target_scope": {"entra_tenant_id": Scenario::Healthy.tenant_id(1)},
    });
    let recorded = format!(
        "WITH recorded AS (INSERT INTO operation_runs
             (id, workspace_id, tenant_id, type, status, context, created_at)
         SELECT id, 1, 1, 'provider.connection.check', 'queued', '{context}', now()
         FROM generate_series(1, {runs}) AS id RETURNING id),
         told AS (INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
         SELECT id, now() FROM recorded ON CONFLICT (run_id) DO UPDATE
         SET delivered_at = now(), not_before = NULL)
         SELECT id FROM recorded ORDER BY id"
    );
    bench.numbers(&recorded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_whose_ids_are_given_again_are_checked_like_any_other() {
    const RUNS: usize = 5;
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let daemon = bench.serve(&BY_HINTS);
    daemon.ready().await;
    let mut granted = None;
    for round in 0..4 {
        let runs = record(&bench, connection, RUNS).await;
        assert_eq!(runs, [1, 2, 3, 4, 5], "round {round}");
        bench.hint(&runs).await;
        bench.all_completed().await;
        assert_eq!(bench.numbers(OWN).await, [RUNS as i64], "round {round}");
        let permissions = "SELECT count(*) FROM tenant_permissions";
        let now = bench.numbers(permissions).await;
        assert_eq!(*granted.get_or_insert(now.clone()), now, "round {round}");
        // A report is compared with one of these runs, or none.
        let previous = "SELECT count(*) FROM operation_runs
            WHERE context #> '{verification_report,previous_report_id}' = 'null'";
        assert!(bench.numbers(previous).await[0] >= 1, "round {round}");
        let lost = "INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted,
                claimed_at, deadline_at, ended_at, end_reason)
            SELECT 1, 100 * ($1 + 1) + n, gen_random_uuid(), 'gone', true, now(), now(), now(),
                   'worker_lost'
            FROM generate_series(1, 3) n"
            .replace("$1", &round.to_string());
        // As in a backup that was restored, whose future has attempts.
        bench.execute(&lost).await;
        let anew = "TRUNCATE operation_runs, tenant_permissions, tenant_onboarding_sessions,
            verification_check_acknowledgements RESTART IDENTITY CASCADE";
        bench.execute(anew).await;
    }
    assert!(granted.unwrap()[0] > 0);
    daemon.ready().await;
}

/// Hints are left in the queue, and marks of them in the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_recorded_whose_id_has_been_given_before() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    for _ in 0..3 {
        assert_eq!(bench.enqueue(connection), 1);
        bench
            .execute("TRUNCATE operation_runs RESTART IDENTITY")
            .await;
    }
    bench.enqueue(connection);
    let _daemon = bench.serve(&BY_HINTS);
    bench.all_completed().await;
    assert_eq!(bench.numbers(OWN).await, [1]);
}
