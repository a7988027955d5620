//! `verifyd doctor` names runs that wait because a rule of the application refuses their claims.

use super::application_trigger::before_update;
use super::doctor::examined;
use test_support::bench::Bench;

/// Without one nobody claims runs, and that is the reason.
const WORKER: &str = "INSERT INTO verifyd.workers (worker_id, version, concurrency, in_flight, started_at, beat_at) \
                      VALUES ('beats', '1', 1, 0, now(), now() + interval '1 hour')";

/// Runs of the tenants 2 and 3 that wait, though a worker works.
async fn runs_wait(bench: &Bench) {
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at) \
                 SELECT 1, t, 'provider.connection.check', 'queued', '{}', now() - interval '20 seconds' \
                 FROM generate_series(2, 3) AS t",
        )
        .await;
    bench.execute(WORKER).await;
}

/// What was found of the runs that wait, and what to do.
fn waits(bad: &[(String, String, String)]) -> Vec<(&str, &str)> {
    let waiting = bad
        .iter()
        .filter(|(_, found, _)| found.contains(" waits: "));
    waiting
        .map(|(_, found, remedy)| (found.as_str(), remedy.as_str()))
        .collect()
}

/// Whether it is said that the database cannot be asked for runs.
fn is_outage((part, found, _): &(String, String, String)) -> bool {
    part == "runs" && found.starts_with("the database is not available: ")
}

/// The check that is tried is one of another tenant, and nothing is stored of a claim that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn runs_of_one_tenant_whose_claims_are_refused_are_named() {
    let bench = Bench::new().await;
    bench.healthy(1);
    let claimed = "new.tenant_id = 2 AND new.status = 'running'";
    before_update(&bench, claimed, "RAISE 'not today'").await;
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at) \
                 SELECT 1, 2, 'provider.connection.check', 'queued', '{}', now() - interval '90 seconds' \
                 FROM generate_series(1, 2)",
        )
        .await;
    let oldest = bench.numbers("SELECT min(id) FROM operation_runs").await[0];
    // Without a worker that is the reason.
    let (code, bad) = examined(&bench);
    assert_eq!((code, waits(&bad)), (0, vec![]));
    bench.execute(WORKER).await;
    let (code, bad) = examined(&bench);
    let found = waits(&bad);
    let [(found, remedy)] = &found[..] else {
        panic!("{bad:?}")
    };
    assert_eq!(code, 0);
    // More workers would claim no more.
    let (_, numbers, instead) = bad.iter().find(|(part, ..)| part == "runs").unwrap();
    assert!(numbers.starts_with("2 queued"), "{numbers}");
    assert!(instead.contains("what refuses claims"), "{instead}");
    let said = format!(
        "run {oldest} of tenant 2 waits: the database refused: claiming a run: not today (SQLSTATE P0001) \
         (triggers: of_application)"
    );
    assert_eq!(*found, said);
    assert!(remedy.contains("trigger or constraint"), "{remedy}");
}

/// Codes that a server has for itself, and what ends the session or takes too long.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_raises_is_not_taken_for_a_fault_of_the_server() {
    let bench = Bench::new().await;
    bench.healthy(1);
    // It accepts all, and no claim fires it.
    bench
        .execute(
            "CREATE FUNCTION accept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
             CREATE TRIGGER on_insert BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION accept()",
        )
        .await;
    let drop_trigger =
        "DROP TRIGGER of_application ON operation_runs; DROP FUNCTION of_application";
    let raise = |code: &str| format!("RAISE 'not today' USING errcode = '{code}'");
    // Of all runs. Here no error says that it comes from a function.
    let reads_only = "SET TRANSACTION READ ONLY; RETURN new".to_owned();
    for (statements, code) in [
        (reads_only, "25006"),
        (raise("25006"), "25006"),
        (raise("08006"), "08006"),
    ] {
        before_update(&bench, "true", &statements).await;
        let (exit, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{bad:?}")
        };
        // As `serve`, which starts.
        assert_eq!((exit, part.as_str()), (0, "writing"), "{bad:?}");
        let said = format!("(SQLSTATE {code}) (triggers: of_application)");
        assert!(found.ends_with(&said), "{found}");
        assert!(remedy.contains("trigger or constraint"), "{remedy}");
        bench.execute(drop_trigger).await;
    }

    // Of two tenants. One that takes too long, or ends the session, is the last one that is tried.
    runs_wait(&bench).await;
    let run = bench.numbers("SELECT min(id) FROM operation_runs").await[0];
    let ends_session = "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new".to_owned();
    let waits_for_long = "PERFORM pg_sleep(3600); RETURN new".to_owned();
    for (statements, code, runs, advice) in [
        (raise("40P01"), "40P01", 2, "let the trigger return at once"),
        (raise("08006"), "08006", 2, "trigger or constraint"),
        (raise("25006"), "25006", 2, "trigger or constraint"),
        (raise("53100"), "53100", 2, "trigger or constraint"),
        (ends_session, "57P01", 1, "trigger or constraint"),
        (waits_for_long, "57014", 1, "let the trigger return at once"),
    ] {
        before_update(&bench, "new.tenant_id > 1", &statements).await;
        let (exit, bad) = examined(&bench);
        let found = waits(&bad);
        assert_eq!((exit, found.len()), (0, runs), "{code}: {bad:?}");
        // The transaction may have ended with the session.
        assert!(!bad.iter().any(is_outage), "{code}: {bad:?}");
        let (found, remedy) = found[0];
        let begins = format!("run {run} of tenant 2 waits: ");
        let ends = format!("(SQLSTATE {code}) (triggers: of_application)");
        assert!(
            found.starts_with(&begins) && found.ends_with(&ends),
            "{found}"
        );
        assert!(found.contains("claiming a run: "), "{found}");
        assert!(remedy.contains(advice), "{code}: {remedy}");
        bench.execute(drop_trigger).await;
    }
}

/// It may end the session while a claim is tried. A CHECK does that here: no function is named then, either.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_the_session_is_not_taken_for_a_rule() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "ALTER TABLE operation_runs ADD CONSTRAINT ends CHECK (CASE WHEN tenant_id > 1 AND status = 'running'
                 THEN pg_terminate_backend(pg_backend_pid()) ELSE true END)",
        )
        .await;
    runs_wait(&bench).await;
    let (code, bad) = examined(&bench);
    assert_eq!((code, waits(&bad)), (0, vec![]));
    assert!(bad.iter().any(is_outage), "{bad:?}");
}

/// No time limit of the server ends what catches it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_found_is_named_though_the_next_one_takes_all_the_time() {
    let bench = Bench::new().await;
    bench.healthy(1);
    let refuses_or_waits = "IF new.tenant_id = 2 THEN RAISE 'not today'; END IF; \
         BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(3600); END; RETURN new";
    before_update(&bench, "new.tenant_id > 1", refuses_or_waits).await;
    runs_wait(&bench).await;
    let (_, bad) = examined(&bench);
    let found = waits(&bad);
    assert!(
        matches!(found[..], [(found, _)] if found.contains("of tenant 2 waits: ")),
        "{bad:?}"
    );
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    bench.execute(end).await;
}
