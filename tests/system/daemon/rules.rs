//! Rules of the application that refuse every run, or change what is written to it: `doctor` says so, and nothing is
//! migrated or served.

use crate::daemon::application_trigger::before_update;
use crate::daemon::doctor::examined;
use serde_json::Value;
use test_support::bench::{Bench, Daemon};
use test_support::waiting::until;
use verifyd_simulator::SimulatorOptions;

/// Puts back the context of a run that is completed.
const PUTS_BACK: &str = "
    CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN new.context := old.context; RETURN new; END';
    CREATE TRIGGER put_back BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION put_back()";

/// Sweeps and looks at the schema are frequent, and refusals count soon.
const FREQUENT: [(&str, &str); 3] = [
    ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
    ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
];

fn constraint(condition: &str) -> String {
    format!("ALTER TABLE operation_runs ADD CONSTRAINT refused CHECK ({condition})")
}

const DROP_CONSTRAINT: &str = "ALTER TABLE operation_runs DROP CONSTRAINT refused";

/// Both say what `doctor` says of the writes, with what mends it.
async fn is_neither_migrated_nor_served(bench: &Bench, said: &str) {
    is_refused_by(&["migrate", "serve"], bench, said).await;
}

async fn is_refused_by(commands: &[&str], bench: &Bench, said: &str) {
    let (code, bad) = examined(bench);
    let writing = bad.iter().find(|(part, ..)| part == "writing");
    let (_, found, remedy) = writing.unwrap_or_else(|| panic!("{said}: {bad:?}"));
    assert_eq!(code, 1, "{bad:?}");
    assert!(found.contains(said), "{said}: {found}");
    for &command in commands {
        let output = bench.run(&[command]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.contains(found), "{command}: {text}");
        assert!(text.contains(remedy), "{command}: {text}");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(!shown.contains('✓'), "{shown}");
    }
    assert_eq!(bench.count("operation_runs").await, 0);
    assert_eq!(bench.count("verifyd.run_attempts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_every_run_is_neither_migrated_nor_served() {
    const BY_CHECK: &str = "new row for relation \"operation_runs\" violates check constraint";
    let bench = Bench::new().await;
    // What the server then adds to each error is no context of a function.
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    bench
        .execute(&format!(
            "ALTER DATABASE {name} SET log_parameter_max_length_on_error = -1"
        ))
        .await;
    // Also before there is a connection that could be checked.
    for (condition, step) in [
        ("status IN ('queued', 'done')", "claiming a run"),
        ("outcome <> 'succeeded'", "completing a run"),
    ] {
        bench.execute(&constraint(condition)).await;
        is_neither_migrated_nor_served(&bench, &format!("{step}: {BY_CHECK}")).await;
        bench.execute(DROP_CONSTRAINT).await;
    }
    bench.healthy(1);
    for condition in [
        "outcome <> 'blocked'",
        // Larger than a report of one check, smaller than one of many.
        "octet_length(context::text) < 8192",
    ] {
        bench.execute(&constraint(condition)).await;
        is_neither_migrated_nor_served(&bench, &format!("completing a run: {BY_CHECK}")).await;
        bench.execute(DROP_CONSTRAINT).await;
    }
    // A trigger may let another role through than that of `migrate`.
    bench.execute(PUTS_BACK).await;
    let said = "completing a run: a trigger changes what is written to operation_runs: \
                context.verification_report (triggers: put_back)";
    is_refused_by(&["serve"], &bench, said).await;
    let migrated = bench.success(&["migrate"]);
    let shown = String::from_utf8_lossy(&migrated.stdout);
    assert!(shown.contains(said), "{shown}");
    bench
        .execute("DROP TRIGGER put_back ON operation_runs")
        .await;
    bench.success(&["migrate"]);
    bench.serve(&[]).ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_lets_only_the_role_of_serve_through_stops_no_migration() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    bench
        .execute(
            "CREATE TABLE audit (actor text NOT NULL);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    // Also with the codes of values and constraints.
    for (refusal, said) in [
        ("RAISE 'not by this role'", "not by this role"),
        ("PERFORM 1 / 0", "a value does not fit (SQLSTATE 22012)"),
        (
            "INSERT INTO audit VALUES (NULL)",
            "null value in column \"actor\"",
        ),
    ] {
        bench
            .execute(&format!(
                "DROP TRIGGER verifyd_notify_queued ON operation_runs;
                 CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF current_user <> 'verifyd_serve' THEN {refusal}; END IF;
                     RETURN new; END $$"
            ))
            .await;
        let done = bench.json(&["migrate", "--enforce"]);
        let added = done["guards"]["added"].as_array().unwrap();
        assert!(added.contains(&"verifyd_notify_queued".into()), "{done}");
        let mut findings = done["findings"].as_array().unwrap().iter();
        let said = format!("claiming a run: {said}");
        let is_warning = |finding: &Value| {
            let problem = finding["problem"].as_str().unwrap();
            problem.contains(&said) && finding["fatal"] == false
        };
        assert!(findings.any(is_warning), "{said}: {done}");
    }
    bench.become_role("verifyd_serve");
    assert_eq!(examined(&bench), (0, vec![]));
    bench.serve(&[]).ready().await;
}

/// It has no right to the table of another application.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_of_migrate_may_not_try_is_said() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench
        .execute(
            "CREATE TABLE operation_runs (id bigserial PRIMARY KEY, workspace_id bigint NOT NULL,
                 tenant_id bigint, type text NOT NULL, outcome text, context jsonb, failure_summary jsonb,
                 status text NOT NULL CHECK (status IN ('queued', 'processing', 'done')),
                 created_at timestamptz, started_at timestamptz, completed_at timestamptz)",
        )
        .await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    let done = bench.json(&["migrate"]);
    let mut findings = done["findings"].as_array().unwrap().iter();
    let untried = findings.find(|finding| finding["subject"] == "writing");
    let problem = untried.unwrap_or_else(|| panic!("{done}"))["problem"].as_str();
    let said = "not tried to the end by this command: the database refused: permission denied for table \
                operation_runs";
    assert!(problem.unwrap().starts_with(said), "{done}");
    bench.grant().await;
    bench.become_role("verifyd_serve");
    is_refused_by(&["serve"], &bench, "claiming a run: new row").await;
}

/// The completion of such a run is not refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_leaves_the_report_stops_no_start() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute(
            "CREATE FUNCTION no_failures() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN new.failure_summary := NULL; RETURN new; END';
             CREATE TRIGGER no_failures BEFORE UPDATE ON operation_runs FOR EACH ROW
                 WHEN (new.outcome = 'succeeded') EXECUTE FUNCTION no_failures()",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, _)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    let changed = "operation_runs: failure_summary (triggers: no_failures)";
    assert!(found.ends_with(changed), "{found}");
    let daemon = bench.serve(&[]);
    bench.record(&[connection], 1).await;
    bench.all_completed().await;
    daemon.ready().await;
}

/// Waits until readiness says that the schema does not fit, and nothing of what the log says.
async fn until_unfit(daemon: &Daemon, said: &str) {
    until("it is not ready", async || {
        let (status, body) = daemon.get("/readyz").await;
        assert!(!body.contains(said), "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let schema = body["checks"]["schema"].as_str().unwrap();
        status == 503 && schema == "the schema does not fit; the log says why"
    })
    .await;
    let lines = daemon.lines.lock().unwrap().join("\n");
    assert!(lines.contains(said), "{said}: {lines}");
    // A restart would not help.
    assert_eq!(daemon.get("/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_while_a_rule_refuses_every_run() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let daemon = bench.serve(&FREQUENT);
    daemon.ready().await;
    for (rule, dropped, said) in [
        (
            constraint("outcome <> 'succeeded'"),
            DROP_CONSTRAINT,
            "completing a run: new row",
        ),
        (
            PUTS_BACK.to_owned(),
            "DROP TRIGGER put_back ON operation_runs",
            "completing a run: a trigger changes",
        ),
    ] {
        let before = bench.count("verifyd.run_attempts").await;
        // A row that is there may break it.
        bench.execute("DELETE FROM operation_runs").await;
        bench.execute(&rule).await;
        until_unfit(&daemon, said).await;
        let runs = bench.record(&[connection], 1).await;
        bench.hint(&runs).await;
        bench.until_taken().await;
        until_unfit(&daemon, said).await;
        assert_eq!(bench.count("verifyd.run_attempts").await, before);
        bench.execute(dropped).await;
        daemon.ready().await;
        bench.all_completed().await;
    }
}

/// Each write that is tried waits for the rule; runs of bare INSERTs are delivered by sweeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_tried_for_long_holds_up_no_sweep() {
    let bench = Bench::new().await;
    let (slow, other) = (bench.healthy(8), bench.healthy(7));
    let mut environment = FREQUENT.to_vec();
    environment.extend([
        // A look is given up before its statements.
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "10m"),
        (
            "VERIFYD__LOG__FILTER",
            "info,verifyd::engine::reconciler=debug",
        ),
    ]);
    let daemon = bench.serve(&environment);
    daemon.ready().await;
    // The tenant that was checked last is tried first.
    bench.record(&[slow], 1).await;
    bench.all_completed().await;
    bench
        .execute(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM nextval('tries');
                 LOOP
                     -- The test of the writes has its statements cancelled once.
                     BEGIN
                         EXIT WHEN EXISTS (SELECT FROM operation_runs WHERE tenant_id = 7 AND status = 'completed');
                         PERFORM pg_sleep(0.1);
                     EXCEPTION WHEN query_canceled THEN NULL;
                     END;
                 END LOOP;
                 RETURN new;
             END $$;
             CREATE TRIGGER hold_up BEFORE UPDATE ON operation_runs FOR EACH ROW
                 WHEN (new.tenant_id = 8) EXECUTE FUNCTION hold_up()",
        )
        .await;
    let tried = "SELECT is_called::int::bigint FROM tries";
    bench.until(tried, |called| called == 1).await;
    bench.record(&[other], 1).await;
    bench.all_completed().await;
    // It is what is logged where a look was given up.
    let lines = daemon.lines.lock().unwrap().join("\n");
    assert!(!lines.contains("cannot inspect the schema"), "{lines}");
}

/// It reads a table: neither the catalogues nor the test at the start say that it refuses runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_begins_to_refuse_every_run_makes_a_worker_not_ready() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute(
            "CREATE TABLE gate (closed text NOT NULL);
             INSERT INTO gate VALUES ('');
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF new.status = (SELECT closed FROM public.gate) THEN RAISE 'a closed gate'; END IF;
                 RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let daemon = bench.serve(&FREQUENT);
    daemon.ready().await;
    for status in ["running", "completed"] {
        let close = format!("UPDATE gate SET closed = '{status}'");
        bench.execute(&close).await;
        bench.record(&[connection], 6).await;
        until_unfit(&daemon, "a closed gate").await;
        bench.execute("UPDATE gate SET closed = ''").await;
        daemon.ready().await;
        // The pauses between the attempts end.
        bench
            .execute(
                "UPDATE verifyd.run_deliveries SET not_before = NULL WHERE run_id IN (
                     SELECT run_id FROM verifyd.run_deliveries WHERE not_before IS NOT NULL
                     ORDER BY run_id FOR UPDATE SKIP LOCKED)",
            )
            .await;
        bench.all_completed().await;
    }
}

/// The runs of the first connection alone are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_one_tenant_stops_no_start() {
    let bench = Bench::new().await;
    let [_, healthy] = [2, 1].map(|tenant| bench.healthy(tenant));
    before_update(&bench, "old.tenant_id = 2", "RAISE 'not today'").await;
    assert_eq!(examined(&bench), (0, vec![]));
    bench.success(&["migrate"]);
    let daemon = bench.serve(&[]);
    bench.record(&[healthy], 1).await;
    bench.all_completed().await;
    daemon.ready().await;
}
