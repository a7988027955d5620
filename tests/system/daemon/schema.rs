//! A schema that does not fit is never served, and one that stops fitting is not served until it fits again.

use super::doctor::statement;
use serde_json::Value;
use std::process::Output;
use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};
use test_support::postgres::TestDatabase;
use verifyd_simulator::{Scenario, SimulatorOptions};

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The remedies for this part, as `doctor` prints them.
fn remedies(bench: &Bench, subject: &str) -> Vec<String> {
    let doctor = bench.run(&["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let answer: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let parts = answer["parts"].as_array().unwrap().iter();
    parts
        .filter(|part| part["part"] == "schema" && part["state"] == "failed")
        .filter(|part| part["found"].as_str().unwrap().starts_with(subject))
        .map(|part| part["remedy"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_missing_or_newer_is_told_with_its_remedy() {
    let bench = Bench::unmigrated(SimulatorOptions::default()).await;
    for command in ["runs", "connections", "tokens", "webhooks"] {
        let listed = bench.run(&[command, "list"]);
        assert_eq!(listed.status.code(), Some(1), "{}", said(&listed));
        assert!(
            said(&listed).contains("→ run `verifyd migrate`"),
            "{}",
            said(&listed)
        );
    }
    bench.success(&["migrate"]);
    bench
        .execute(
            "INSERT INTO verifyd.schema_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'newer', true, '', 0)",
        )
        .await;
    let migrated = bench.run(&["migrate"]);
    assert_eq!(migrated.status.code(), Some(1), "{}", said(&migrated));
    assert!(
        said(&migrated).contains("→ use that version of verifyd"),
        "{}",
        said(&migrated)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_doctor_calls_fatal_is_neither_migrated_nor_served() {
    let bench = Bench::new().await;
    // Of another application these constraints would not be there.
    bench
        .execute(
            "ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_blocked; \
         DROP TRIGGER verifyd_guard_completed_run ON operation_runs; \
         DROP TRIGGER verifyd_guard_run_identity ON operation_runs; \
         DROP INDEX operation_runs_check_connection",
        )
        .await;
    for (broken, subject, problem) in [
        (
            "ALTER TABLE operation_runs ALTER COLUMN context DROP DEFAULT, \
             ALTER COLUMN context TYPE json, ALTER COLUMN context SET DEFAULT '{}'",
            "operation_runs.context",
            "the type is json, needed: jsonb",
        ),
        (
            "ALTER TABLE operation_runs ALTER COLUMN status TYPE varchar(8)",
            "operation_runs.status",
            "varchar(8) is too short, needed: text",
        ),
        (
            "ALTER TABLE operation_runs DROP COLUMN started_at",
            "operation_runs.started_at",
            "the column is missing",
        ),
        (
            "ALTER TABLE tenant_onboarding_sessions ALTER COLUMN workspace_id TYPE text",
            "tenant_onboarding_sessions.workspace_id",
            "the type is text, needed: bigint",
        ),
        (
            "ALTER TABLE provider_connections ALTER COLUMN tenant_id TYPE integer",
            "provider_connections.tenant_id",
            "the type is int4, needed: bigint",
        ),
        (
            "ALTER TABLE verifyd.tenant_inventory ALTER COLUMN compared_at TYPE text",
            "verifyd.tenant_inventory.compared_at",
            "the type is text, needed: timestamptz",
        ),
    ] {
        bench.execute(broken).await;
        for command in ["migrate", "serve"] {
            let output = bench.run(&[command]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{command}: {text}");
            assert!(text.contains(&format!("{subject}: {problem}")), "{text}");
            let remedy = &remedies(&bench, subject)[0];
            assert!(text.contains(remedy), "{remedy}: {text}");
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(!shown.contains('✓'), "{shown}");
        }
        assert_eq!(bench.count("verifyd.run_attempts").await, 0);
        // What is printed mends it.
        bench.execute(&remedies(&bench, subject)[0]).await;
        let doctor = bench.run(&["doctor"]);
        assert!(doctor.status.success(), "{subject}: {}", said(&doctor));
    }
    bench
        .execute(
            "ALTER TABLE operation_runs ALTER COLUMN id DROP IDENTITY; \
         ALTER TABLE operation_runs ALTER COLUMN id TYPE uuid USING gen_random_uuid()",
        )
        .await;
    let output = bench.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("operation_runs.id: the type is uuid, needed: bigint"));
    bench.execute("DROP SCHEMA verifyd CASCADE").await;
    let output = bench.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("run `verifyd migrate`"));
}

/// The name of a tenant may not fit into it, and one row with bytes that are no UTF-8 fails the lists of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_is_neither_migrated_nor_served() {
    const ENCODINGS: [&str; 3] = ["SQL_ASCII", "LATIN1", "WIN1252"];
    let unfit = |encoding: &str| {
        format!("server_encoding: the database has the encoding {encoding}, needed: UTF8. dump the")
    };
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    for encoding in ENCODINGS {
        bench.database = TestDatabase::in_encoding(encoding).await;
        let url = bench.database.url();
        bench.set("DATABASE_URL", url);
        let migrated = bench.run(&["migrate"]);
        let text = said(&migrated);
        assert_eq!(migrated.status.code(), Some(1), "{encoding}: {text}");
        assert!(text.contains(&unfit(encoding)), "{text}");
        let made = "pg_namespace WHERE nspname = 'verifyd'";
        assert_eq!(bench.count(made).await, 0, "{encoding}");
    }

    // As an earlier version migrated it.
    let bench = Bench::new().await;
    for encoding in ENCODINGS {
        bench
            .execute(&format!(
                "UPDATE pg_database SET encoding = pg_char_to_encoding('{encoding}')
                 WHERE datname = current_database()"
            ))
            .await;
        let remedy = &remedies(&bench, "server_encoding")[0];
        let served = bench.run(&["serve"]);
        let text = said(&served);
        assert_eq!(served.status.code(), Some(1), "{encoding}: {text}");
        assert!(text.contains(&unfit(encoding)), "{text}");
        assert!(text.contains(remedy), "{remedy}: {text}");
        // What is printed makes the other database.
        bench.execute(statement(remedy)).await;
        let url = bench.database.url();
        let other = format!("{}_utf8", url.rsplit('/').next().unwrap());
        let fits = format!(
            "pg_database WHERE datname = '{other}' AND pg_encoding_to_char(encoding) = 'UTF8'"
        );
        assert_eq!(bench.count(&fits).await, 1, "{encoding}");
        bench.execute(&format!("DROP DATABASE {other}")).await;
    }
}

/// Waits until readiness is as wanted, and returns what it says of the schema.
async fn readiness(daemon: &test_support::bench::Daemon, wanted: u16) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, body) = daemon.get("/readyz").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let schema = body["checks"]["schema"].as_str().unwrap().to_owned();
        if status == wanted && (wanted == 200) == (schema == "ok") {
            return schema;
        }
        assert!(Instant::now() < until, "still {status}: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_while_the_schema_does_not_fit() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let connection = connection.to_string();
    let enqueue = ["enqueue", "--connection", &connection];
    let daemon = bench.serve(&[]);
    daemon.ready().await;
    bench.json(&enqueue);
    bench.all_completed().await;
    for (broken, mended, named) in [
        (
            "ALTER TABLE operation_runs RENAME COLUMN failure_summary TO failures",
            "ALTER TABLE operation_runs RENAME COLUMN failures TO failure_summary",
            "operation_runs.failure_summary: the column is missing",
        ),
        (
            "ALTER TABLE tenant_permissions ALTER COLUMN tenant_id TYPE integer",
            "ALTER TABLE tenant_permissions ALTER COLUMN tenant_id TYPE bigint",
            "tenant_permissions.tenant_id: the type is int4, needed: bigint",
        ),
        (
            "ALTER TABLE verifyd.run_attempts RENAME TO attempts",
            "ALTER TABLE verifyd.attempts RENAME TO run_attempts",
            "verifyd.run_attempts: the table is missing",
        ),
    ] {
        bench.execute(broken).await;
        // Everybody may ask, so the answer names nothing; the log does.
        let unfit = "the schema does not fit; the log says why";
        assert_eq!(readiness(&daemon, 503).await, unfit);
        let (subject, problem) = named.split_once(": ").unwrap();
        let subject = format!("\"subject\":\"{subject}\",\"problem\":\"{problem}\"");
        let lines = daemon.lines.lock().unwrap().join("\n");
        assert!(lines.contains(&subject), "{subject}: {lines}");
        bench.json(&enqueue);
        // The hint is fetched, and held. A claim, were it tried, would have been answered within the second.
        bench.until_taken().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let queued = "SELECT count(*) FROM operation_runs WHERE status = 'queued'";
        assert_eq!(bench.numbers(queued).await, [1]);
        bench.execute(mended).await;
        readiness(&daemon, 200).await;
        bench.all_completed().await;
    }
    let attempts = "SELECT count(*) FROM verifyd.run_attempts
        WHERE counted AND end_reason = 'completed'";
    assert_eq!(bench.numbers(attempts).await, [4]);
    let all = "SELECT count(*) FROM verifyd.run_attempts";
    assert_eq!(bench.numbers(all).await, [4]);
}

/// The check was under way when its result could not be written any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_the_schema_ended_does_not_count() {
    let bench = Bench::with(SimulatorOptions {
        slow_answer: Duration::from_millis(700),
        ..SimulatorOptions::default()
    })
    .await;
    let connection = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
    // The watch itself looks too late.
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "10s"),
        ("VERIFYD__WORKER__DEAD_AFTER", "60s"),
    ]);
    daemon.ready().await;
    let connection = connection.to_string();
    bench.json(&["enqueue", "--connection", &connection]);
    bench.count_is("running", 1).await;
    let rename = "ALTER TABLE operation_runs RENAME COLUMN";
    bench
        .execute(&format!("{rename} failure_summary TO failures"))
        .await;
    bench.count_is("queued", 1).await;
    assert!(!readiness(&daemon, 503).await.is_empty());
    bench
        .execute(&format!("{rename} failures TO failure_summary"))
        .await;
    bench.all_completed().await;
    readiness(&daemon, 200).await;
    let counted = "SELECT count(*) FROM verifyd.run_attempts WHERE counted";
    assert_eq!(bench.numbers(counted).await, [1]);
    let uncounted = "SELECT count(*) FROM verifyd.run_attempts
        WHERE NOT counted AND end_reason = 'shutdown'";
    assert_eq!(bench.numbers(uncounted).await, [1]);
}
