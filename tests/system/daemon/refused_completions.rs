//! A trigger of the application refuses completions.

use crate::daemon::application_trigger::{before_update, raise_by_tenant};
use serde_json::Value;
use std::time::Duration;
use test_support::bench::Bench;
use test_support::waiting::until;

/// Each is raised for the runs of one tenant, from 2. Most of them also stand for failures of the whole database, or
/// for conflicts that pass.
const CODES: [&str; 6] = ["40001", "55P03", "08006", "25006", "42703", "P0001"];

async fn refuse(bench: &Bench, condition: &str) -> Vec<i64> {
    let condition = format!("new.status = 'completed' AND {condition}");
    before_update(bench, &condition, &raise_by_tenant(&CODES)).await;
    let tenants = 2..2 + CODES.len() as i64;
    tenants.map(|tenant| bench.healthy(tenant)).collect()
}

/// What verifyd reads of the context is refused, too, so nothing of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_context_is_refused_ends_whatever_the_code() {
    let bench = Bench::new().await;
    let refused = refuse(&bench, "new.context ? 'target_scope'").await;
    let _daemon = bench.serve(&[
        ("VERIFYD__WORKER__MAX_ATTEMPTS", "1"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    ]);
    bench.record(&refused, 1).await;
    until("all runs are completed", async || {
        // The pauses between the attempts end.
        bench
            .execute(
                "UPDATE verifyd.run_deliveries SET not_before = NULL WHERE run_id IN (
                     SELECT run_id FROM verifyd.run_deliveries WHERE not_before IS NOT NULL
                     ORDER BY run_id FOR UPDATE SKIP LOCKED)",
            )
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        bench
            .count("operation_runs WHERE status <> 'completed'")
            .await
            == 0
    })
    .await;
    let dropped = "operation_runs WHERE context @> '{\"producer_context_dropped\": true}'
        AND context ? 'verification_report'";
    assert_eq!(bench.count(dropped).await, CODES.len() as i64);
}

/// Nothing can complete these runs. What retries one until its deadline would keep the others waiting for longer than the
/// test does.
#[tokio::test(flavor = "multi_thread")]
async fn refused_completions_keep_no_slot_from_the_others() {
    const REFUSED: i64 = 3;
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    let refused = refuse(&bench, "old.tenant_id > 1").await;
    let runs = bench.record(&refused, REFUSED).await;
    bench.hint(&runs).await;
    let runs = bench.record(&[healthy], 4).await;
    bench.hint(&runs).await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "4"),
        ("VERIFYD__WORKER__RUN_DEADLINE", "10m"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.count_is("completed", 4).await;
    // The attempts of every code end, each as one that waits and counts.
    let released = "SELECT count(DISTINCT r.tenant_id) FROM operation_runs r
        JOIN verifyd.run_attempts a ON a.run_id = r.id
        WHERE a.end_reason = 'error' AND a.counted AND a.result_refusal IS NOT NULL";
    bench.until(released, |n| n == CODES.len() as i64).await;
    let counted = daemon.metric("verifyd_completions_refused_total").await;
    assert!(counted >= CODES.len() as f64, "{counted}");
    daemon.ready().await;
}

/// By triggers, a function in SQL and a constraint, without what the error says of the row: the function that raises the
/// error is named, or else the outermost one, and neither what it calls a constraint nor a line of a statement.
#[tokio::test(flavor = "multi_thread")]
async fn refused_completions_are_named_with_their_rules() {
    let bench = Bench::new().await;
    let [_, connections @ ..] = [1, 2, 3, 4, 5, 6].map(|tenant| bench.healthy(tenant));
    bench
        .execute(
            "CREATE FUNCTION raises() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
                 RAISE 'not s3cret' USING CONSTRAINT = 's3cret'; END $f$;
             CREATE FUNCTION casts() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
                 EXECUTE format('SELECT (%L || '''')::int', E'a\"\nPL/pgSQL function s3cret() line 1'); END $f$;
             CREATE FUNCTION of_tenant(tenant bigint, status text) RETURNS boolean
                 LANGUAGE sql SECURITY DEFINER AS
                 $f$ SELECT 1 / (CASE WHEN tenant = 5 AND status = 'completed' THEN 0 ELSE 1 END) > 0 $f$",
        )
        .await;
    let rules = "CASE new.tenant_id WHEN 2 THEN PERFORM raises(); WHEN 3 THEN PERFORM casts();
        WHEN 4 THEN PERFORM FROM of_nobody; ELSE NULL; END CASE; RETURN new";
    before_update(&bench, "new.status = 'completed'", rules).await;
    bench
        .execute(
            "ALTER TABLE operation_runs
                 ADD CONSTRAINT of_function CHECK (of_tenant(tenant_id::bigint, status::text)),
                 ADD CONSTRAINT of_tenant CHECK (tenant_id <> 6 OR status <> 'completed')",
        )
        .await;
    let _daemon = bench.serve(&[]);
    let mut runs = Vec::new();
    for connection in connections {
        runs.extend(bench.record(&[connection], 1).await);
    }
    let refused = "SELECT count(DISTINCT run_id) FROM verifyd.run_attempts
        WHERE end_reason = 'error' AND result_refusal IS NOT NULL";
    bench.until(refused, |n| n == 5).await;
    let output = bench.run(&["doctor", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let parts = answer["parts"].as_array().unwrap().iter();
    let lines = parts.filter(|line| line["part"] == "refused runs");
    let says = |line: &Value, member: &str| line[member].as_str().unwrap().to_owned();
    let (parts, remedies): (Vec<String>, Vec<String>) = lines
        .map(|line| (says(line, "found"), says(line, "remedy")))
        .unzip();
    assert_eq!(parts.len(), 5, "{answer}");
    let goes_on = "those whose attempts are used up end failed: check them again";
    let say_so = |remedy: &String| remedy.ends_with(goes_on);
    assert!(remedies.iter().all(say_so), "{remedies:?}");
    let wanted = [
        "SQLSTATE P0001, function raises",
        "SQLSTATE 22P02, function of_application",
        // A table of the function's own.
        "SQLSTATE 42P01, function of_application",
        "SQLSTATE 22012, function of_tenant",
        "SQLSTATE 23514, constraint of_tenant of operation_runs",
    ];
    for (run, wanted) in runs.iter().zip(wanted) {
        let shown = bench.json(&["runs", "show", &run.to_string()]);
        let attempt = &shown["view"]["timeline"]["attempts"][0];
        let refusal = attempt["database_refusal"].as_str().unwrap();
        assert_eq!(refusal, wanted);
        let end = attempt["end"].as_str().unwrap();
        assert_eq!(end, format!("the database refused the result ({refusal})"));
        assert!(!shown.to_string().contains("s3cret"), "{shown}");
        let named = format!("{refusal}: {run} of tenant ");
        assert!(parts.iter().any(|part| part.contains(&named)), "{parts:?}");
    }
}

/// One slot. The release is refused, too, and what is recorded instead does not get through.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_cannot_be_recorded_keeps_no_slot() {
    const REFUSED: i64 = 3;
    let bench = Bench::new().await;
    let [_, connection] = [1, 2].map(|tenant| bench.healthy(tenant));
    let ended = "old.status = 'running' AND new.tenant_id = 2";
    before_update(&bench, ended, "RAISE 'not today'").await;
    bench
        .execute(
            "CREATE TABLE gate (closed boolean NOT NULL); INSERT INTO gate VALUES (true);
             CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 WHILE (SELECT closed FROM public.gate) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN new; END $$;
             CREATE TRIGGER wait_at_gate BEFORE UPDATE OF result_refusal ON verifyd.run_attempts
                 FOR EACH ROW WHEN (new.result_refusal IS NOT NULL AND new.ended_at IS NULL)
                 EXECUTE FUNCTION wait_at_gate()",
        )
        .await;
    let _daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "1"),
        ("VERIFYD__DATABASE__MAX_CONNECTIONS", "20"),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "1h"),
    ]);
    let runs = bench.record(&[connection], REFUSED).await;
    bench.hint(&runs).await;
    let claimed = "SELECT count(DISTINCT run_id) FROM verifyd.run_attempts";
    bench.until(claimed, |n| n == REFUSED).await;
    let recorded = "verifyd.run_attempts WHERE result_refusal IS NOT NULL";
    assert_eq!(bench.count(recorded).await, 0);
    bench.execute("UPDATE gate SET closed = false").await;
}

/// From the second attempt on, which only has to complete the run, the rule is slow and raises what otherwise passes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_rule_refuses_until_the_deadline_is_recorded() {
    let bench = Bench::new().await;
    let [_, connection] = [1, 2].map(|tenant| bench.healthy(tenant));
    let refuses = "IF (SELECT count(*) FROM verifyd.run_attempts WHERE run_id = old.id) > 1 THEN
             PERFORM pg_sleep(1); RAISE 'not today' USING errcode = '55P03';
         END IF; RAISE 'not today'";
    let completed = "new.status = 'completed' AND new.tenant_id = 2";
    before_update(&bench, completed, refuses).await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__MAX_ATTEMPTS", "1"),
        ("VERIFYD__WORKER__RUN_DEADLINE", "30s"),
        ("VERIFYD__WORKER__DEAD_AFTER", "5m"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    ]);
    bench.record(&[connection], 1).await;
    let ended =
        "SELECT count(*) FROM verifyd.run_attempts WHERE NOT counted AND ended_at IS NOT NULL";
    bench.until(ended, |n| n > 0).await;
    let named = "verifyd.run_attempts WHERE NOT counted AND end_reason = 'error'
        AND result_refusal LIKE 'SQLSTATE 55P03, function %'";
    assert!(bench.count(named).await > 0);
    // The attempt before it is counted, too.
    let counted = daemon.metric("verifyd_completions_refused_total").await;
    assert!(counted >= 2.0, "{counted}");
}

/// The last try of a completion keeps the run locked beyond its deadline. The worker, which lives, releases it: it is not
/// lost. Without a result to write, a completion has no longer than a check.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_completion_waits_past_its_deadline_ends_as_an_error() {
    let bench = Bench::new().await;
    let [_, connection] = [1, 2].map(|tenant| bench.healthy(tenant));
    bench
        .execute("CREATE TABLE gate (closed boolean NOT NULL); INSERT INTO gate VALUES (false)")
        .await;
    let waits = "WHILE (SELECT closed FROM public.gate) LOOP PERFORM pg_sleep(0.05); END LOOP; RAISE 'not today'";
    let completed = "new.status = 'completed' AND new.tenant_id = 2";
    before_update(&bench, completed, waits).await;
    let _daemon = bench.serve(&[
        ("VERIFYD__WORKER__MAX_ATTEMPTS", "1"),
        ("VERIFYD__WORKER__RUN_DEADLINE", "30s"),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "36s"),
        // However busy the machine is.
        ("VERIFYD__WORKER__DEAD_AFTER", "5m"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    ]);
    bench.record(&[connection], 1).await;
    let spent = "SELECT count(*) FROM verifyd.run_attempts WHERE ended_at IS NOT NULL";
    bench.until(spent, |n| n > 0).await;
    bench.execute("UPDATE gate SET closed = true").await;
    let waited = "SELECT count(*) FROM verifyd.run_attempts
        WHERE NOT counted AND ended_at > claimed_at + interval '30 s'";
    bench.until(waited, |n| n > 0).await;
    let others = "verifyd.run_attempts WHERE end_reason <> 'error'";
    assert_eq!(bench.count(others).await, 0);
}
