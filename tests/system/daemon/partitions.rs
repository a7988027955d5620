//! `migrate --partition-by-month` under the roles of `deploy/`, beside a worker.

use super::doctor::{answer, examined};
use test_support::bench::Bench;
use test_support::waiting::until;
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
    let months = plan["partitioning"]["months"].as_array().unwrap();
    let name = |month: usize| months[month].as_str().unwrap();
    let (next, taken) = (name(0), name(11));
    bench
        .execute(&format!("CREATE TABLE {taken} (of_application int)"))
        .await;
    let done = bench.json(&["migrate", "--partition-by-month"]);
    assert_eq!(done["partitions"].as_array().unwrap()[..], months[..11]);
    assert_eq!(done["partitions_left"][0]["partition"], taken, "{done}");
    let again = bench.json(&["migrate"]);
    assert!(again["partitions"].is_null(), "{again}");

    bench.become_role("verifyd_operator");
    for _ in 0..3 {
        // The connection has one active run at a time.
        bench.enqueue(connection);
        bench.all_completed().await;
    }
    let succeeded = bench.count("operation_runs WHERE outcome = 'succeeded'");
    assert_eq!(succeeded.await, 4);
    bench.become_role("verifyd_serve");
    assert_eq!(examined(&bench), (0, vec![]));
    let (_, parts) = answer(&bench);
    let mut parts = parts.as_array().unwrap().iter();
    assert!(parts.any(|part| part["part"] == "partitions"));
    const MONTHS: f64 = 330.0 * 86_400.0;
    assert!(daemon.metric("verifyd_partitions_left_seconds").await > MONTHS);

    // An id that another run gets stops no sweep and no start.
    drop(daemon);
    bench
        .execute(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
             SELECT id, workspace_id, tenant_id, type, 'queued', context, now() + interval '40 days'
             FROM operation_runs ORDER BY id LIMIT 1",
        )
        .await;
    let daemon = bench.serve(&[]);
    daemon.ready().await;
    bench.become_role("verifyd_operator");
    bench.enqueue(connection);
    let succeeded = "SELECT count(*) FROM operation_runs WHERE outcome = 'succeeded'";
    bench.until(succeeded, |runs| runs == 5).await;
    bench.become_role("verifyd_serve");
    let (code, bad) = examined(&bench);
    assert_eq!((code, bad.len()), (0, 1), "{bad:?}");
    let (part, found, remedy) = &bad[0];
    assert_eq!(part, "invalid runs");
    assert!(found.contains("2 runs have it"), "{found}");
    assert!(
        remedy.contains("DELETE FROM operation_runs WHERE id = "),
        "{remedy}"
    );

    let repeated = remedy.split("id = ").nth(1).unwrap();
    let repeated = repeated.split_whitespace().next().unwrap();
    let shown = bench.json(&["runs", "show", repeated]);
    let verdict = shown["view"]["verdict"].as_str().unwrap();
    assert!(verdict.contains("other runs have its id"), "{verdict}");
    assert_eq!(shown["view"]["shares_id"], true, "{shown}");
    assert_eq!(shown["view"]["waiting"], serde_json::Value::Null);

    until("runs that share an id are counted", async || {
        daemon.metric("verifyd_invalid_runs").await > 0.0
    })
    .await;

    // Rows of the next month would be refused: that is no mere warning.
    let free = format!(
        "DROP TABLE operation_runs_default, {next}; CREATE TABLE {next} (of_application int)"
    );
    bench.execute(&free).await;
    bench.become_role("verifyd_migrate");
    let output = bench.run(&["migrate"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = String::from_utf8_lossy(&output.stdout);
    for month in [next, taken] {
        let line = format!("partition {month} not added: ");
        assert!(output.contains(&line), "{output}");
    }
}
