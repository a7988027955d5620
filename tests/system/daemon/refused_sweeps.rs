//! A policy of the application fails in every sweep.

use crate::daemon::doctor::examined;
use test_support::bench::{Bench, Daemon};
use test_support::waiting::until;

/// Reads a setting that the sessions of verifyd do not have.
const FAILING: &str = "CREATE POLICY of_setting ON operation_runs AS RESTRICTIVE FOR UPDATE
    USING (workspace_id = current_setting('app.workspace')::bigint)";

/// What the database says of it.
const SAID: &str = "unrecognized configuration parameter \"app.workspace\"";

/// A database whose policies admit all runs to the role of `serve`.
async fn restricted() -> Bench {
    let mut bench = Bench::new().await;
    bench.grant().await;
    bench.become_role("verifyd_serve");
    bench
        .execute(
            "ALTER TABLE operation_runs ENABLE ROW LEVEL SECURITY;
             CREATE POLICY all_runs ON operation_runs USING (true)",
        )
        .await;
    bench
}

/// Whether the metrics have this line.
async fn has_metric(daemon: &Daemon, line: &str) -> bool {
    let (_, metrics) = daemon.get("/metrics").await;
    metrics.lines().any(|there| there == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_where_every_sweep_is_refused() {
    let bench = restricted().await;
    bench.execute(FAILING).await;
    let serve = bench.run(&["serve"]);
    let said = String::from_utf8_lossy(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{said}");
    assert!(said.contains(SAID), "{said}");
    assert!(said.contains("ALTER POLICY"), "{said}");
}

/// A policy whose function is called for each row is found by nothing that leaves the rows alone.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_tries_a_sweep() {
    let bench = restricted().await;
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at, started_at)
                 VALUES (1, 1, 'provider.connection.check', 'running', '{}', now() - interval '1 hour',
                         now() - interval '1 hour');
             CREATE FUNCTION own_workspace() RETURNS bigint LANGUAGE plpgsql VOLATILE AS
                 $$BEGIN RETURN current_setting('app.workspace'); END$$;
             CREATE POLICY of_setting ON operation_runs AS RESTRICTIVE FOR UPDATE
                 USING (workspace_id = own_workspace())",
        )
        .await;
    let (code, bad) = examined(&bench);
    let writing = bad.iter().find(|(part, ..)| part == "writing");
    let (_, found, remedy) = writing.unwrap_or_else(|| panic!("{bad:?}"));
    assert_eq!(code, 1, "{bad:?}");
    assert!(found.contains(&format!("sweeping: {SAID}")), "{found}");
    assert!(remedy.contains("ALTER POLICY"), "{remedy}");
}

/// While no run is queued, nothing else says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_until_a_sweep_gets_through() {
    let bench = restricted().await;
    // No catalogue shows whether it fails, and only for the runs of one workspace.
    bench
        .execute(
            "CREATE TABLE gate (closed boolean NOT NULL);
             INSERT INTO gate VALUES (false);
             CREATE FUNCTION passes(workspace bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
             BEGIN
                 IF workspace = 2 AND (SELECT closed FROM public.gate) THEN RAISE 'a closed gate'; END IF;
                 RETURN true;
             END $$;
             CREATE POLICY of_gate ON operation_runs AS RESTRICTIVE FOR UPDATE USING (passes(workspace_id))",
        )
        .await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
        ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
    ]);
    daemon.ready().await;
    until("the metrics say that it is ready", async || {
        has_metric(&daemon, "verifyd_ready 1").await
    })
    .await;
    bench
        .execute(
            "UPDATE gate SET closed = true;
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at, started_at)
             VALUES (2, 1, 'provider.connection.check', 'running', '{}', now() - interval '1 hour',
                     now() - interval '1 hour')",
        )
        .await;
    until("it is not ready", async || {
        let (status, body) = daemon.get("/readyz").await;
        // Everybody may ask.
        assert!(!body.contains("a closed gate"), "{body}");
        status == 503 && body.contains("sweeps have been refused for ")
    })
    .await;
    assert!(has_metric(&daemon, "verifyd_ready 0").await);
    assert!(daemon.metric("verifyd_sweep_failures_total").await >= 2.0);
    // A restart would not help.
    assert_eq!(daemon.get("/healthz").await.0, 200);
    bench.execute("UPDATE gate SET closed = false").await;
    daemon.ready().await;
}
