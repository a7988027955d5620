//! Getting it wrong is harmless, and seen.

use crate::pages::person::Person;
use serde_json::Value;
use test_support::bench::Bench;
use test_support::redis_server::enqueue;
use test_support::waiting::until;
use verifyd_simulator::Scenario;

/// The lines of `verifyd doctor` about one part.
fn doctor(bench: &Bench, part: &str) -> Vec<String> {
    let output = bench.run(&["doctor", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    said["parts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["part"] == part && line["state"] != "ok")
        .map(|line| line["found"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_are_no_hints_become_dead_letters_that_are_shown() {
    let bench = Bench::new().await;
    let worker = bench.serve(&[]);
    for (id, payload) in [
        (b"1", r#"{"v":1}"#),
        (b"2", r#"{"v":2,"operation_run_id":1}"#),
        (b"3", "canary"),
    ] {
        let sent = enqueue(&bench.redis_url, &bench.queue, id, payload.as_bytes());
        assert_eq!(sent.await.unwrap(), 1);
    }
    until("there are three dead letters", async || {
        let said = doctor(&bench, "hints");
        let [line] = said.as_slice() else {
            return false;
        };
        assert!(!line.contains("canary"), "{line}");
        line.starts_with("3 dead letters")
    })
    .await;
    // The page has them after the invalid runs, and after the number of those that it does not name.
    bench
        .execute(
            "ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_status; \
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status) \
             SELECT 1, 1, 'provider.connection.check', 'pending' FROM generate_series(1, 21)",
        )
        .await;
    let token = bench.token(&["read", "run", "admin"]);
    let person = Person::logged_in(&format!("http://{}", worker.listening), &token).await;
    let page = person.page("/workers").await;
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
    assert!(place("and 1 more run</li>") < place("dead letter "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_contradict_themselves_are_shown_where_nothing_refuses_them() {
    let bench = Bench::new().await;
    assert!(doctor(&bench, "runs").is_empty());
    // As on a table of another application's.
    let mut sql = bench.sql().await;
    for constraint in ["status", "outcome", "blocked"] {
        let drop =
            format!("ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_{constraint}");
        sqlx::query(sqlx::AssertSqlSafe(drop))
            .execute(&mut sql)
            .await
            .unwrap();
    }
    for (id, (run_type, status, outcome, completed)) in (1..).zip([
        ("provider.connection.check", "pending", "NULL", "NULL"),
        ("provider.connection.check", "queued", "'failed'", "NULL"),
        ("provider.connection.check", "queued", "NULL", "now()"),
        ("provider.connection.check", "completed", "NULL", "now()"),
        ("provider.connection.check", "completed", "'failed'", "NULL"),
        (
            "provider.connection.check",
            "completed",
            "'blocked'",
            "now()",
        ),
        // Nobody's business here.
        ("report.export", "pending", "NULL", "NULL"),
    ]) {
        let id: i32 = id;
        let insert = format!(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, outcome, completed_at) \
             VALUES ({id}, 1, 1, '{run_type}', '{status}', {outcome}, {completed})"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert))
            .execute(&mut sql)
            .await
            .unwrap();
    }
    // A doctor shows five, the newest first, and how many more there are.
    let odd = || {
        let said = doctor(&bench, "invalid runs").into_iter();
        said.filter(|line| line.starts_with("operation_runs."))
            .collect::<Vec<_>>()
    };
    let said = odd();
    assert_eq!(
        said,
        [
            "operation_runs.context of run 6: a blocked run without verification_report",
            "operation_runs.completed_at of run 5: null on a completed run",
            "operation_runs.outcome of run 4: null on a completed run, allowed: succeeded, failed, blocked",
            "operation_runs.completed_at of run 3: set on a run that is not completed, allowed: null; no worker claims it",
            "operation_runs.outcome of run 2: \"failed\" on a run that is not completed, allowed: null; no worker claims it",
        ]
    );
    let last = doctor(&bench, "invalid runs").pop();
    assert_eq!(last.as_deref(), Some("and 1 more"));
    sqlx::query("DELETE FROM operation_runs WHERE id > 1")
        .execute(&mut sql)
        .await
        .unwrap();
    assert_eq!(
        doctor(&bench, "invalid runs"),
        [
            "operation_runs.status of run 1: \"pending\", allowed: queued, running, completed; no worker claims it"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_lacks_something_ends_blocked_and_says_what() {
    let bench = Bench::new().await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let connection = bench.connection(1, &tenant, "health_check");
    let mut sql = bench.sql().await;
    let contexts = [
        serde_json::json!([]),
        serde_json::json!("text"),
        serde_json::json!({}),
        serde_json::json!({"provider": "microsoft", "module": 7, "provider_connection_id": connection}),
        serde_json::json!({"provider": "microsoft", "module": "intune", "provider_connection_id": "x",
                           "target_scope": {"entra_tenant_id": tenant}}),
        serde_json::json!({"provider": "microsoft", "module": "intune", "provider_connection_id": connection,
                           "target_scope": {"entra_tenant_id": "not a guid"}}),
    ];
    for context in &contexts {
        sqlx::query(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             VALUES (1, 1, 'provider.connection.check', 'queued', $1)",
        )
        .bind(context)
        .execute(&mut sql)
        .await
        .unwrap();
    }
    let _worker = bench.serve(&[]);
    bench.all_completed().await;
    let runs = bench.json(&["runs", "list"]);
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), contexts.len());
    for run in runs {
        assert_eq!(run["outcome"], "blocked", "{run}");
        let id = run["operation_run_id"].to_string();
        let run = bench.json(&["runs", "show", &id]);
        let checks = run["context"]["verification_report"]["checks"]
            .as_array()
            .unwrap();
        let named = checks.iter().filter(|c| c["status"] == "fail").any(|c| {
            let evidence = c["evidence"].as_array().unwrap();
            evidence.iter().any(|e| e["kind"] == "field")
        });
        assert!(named, "{run}");
    }
}
