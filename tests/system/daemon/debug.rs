//! A running process is looked into, over its socket and by a signal.

use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use test_support::bench::{Bench, KEY};
use test_support::waiting::until;
use verifyd_simulator::{SIMULATED_SECRET, Scenario, SimulatorOptions};

/// A bench whose daemon and commands share a folder for the socket.
async fn bench(options: SimulatorOptions) -> (Bench, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::with(options).await;
    bench.set("RUNTIME_DIRECTORY", folder.path().to_str().unwrap());
    let socket = folder.path().join("debug.sock");
    (bench, folder, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_shows_what_it_waits_for_and_for_how_long() {
    // No call ends while the test looks.
    let options = SimulatorOptions {
        slow_answer: Duration::from_secs(3600),
        ..SimulatorOptions::default()
    };
    let (mut bench, _folder, _) = bench(options).await;
    bench.set("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "10m");
    bench.set("VERIFYD__WORKER__RUN_DEADLINE", "1h");
    bench.set("VERIFYD__WORKER__TOTAL_DEADLINE", "2h");
    bench.set("VERIFYD__WORKER__CONCURRENCY", "8");
    let connection = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
    let mut daemon = bench.serve(&[]);
    let run = bench.enqueue(connection);
    until("the token is asked for", async || {
        let state = bench.json(&["debug", "state"]);
        state["runs"][0]["calls"][0]["call"] == "token"
    })
    .await;

    let state = bench.json(&["debug", "state"]);
    let found = &state["runs"][0];
    assert_eq!(found["run"], run, "{state}");
    assert_eq!(found["connection"], connection, "{state}");
    assert_eq!(found["attempt"], 1, "{state}");
    assert_eq!(found["phase"], "check", "{state}");
    let seconds = |member: &Value| member.as_f64().unwrap();
    assert!(seconds(&found["phase_seconds"]) <= seconds(&found["seconds"]));
    assert!((0.0..20.0 * 3600.0).contains(&seconds(&found["lease_seconds"])));
    assert_eq!(state["worker"], daemon.worker);
    assert_eq!(state["slots"]["total"], 8, "{state}");
    assert!(state["slots"]["free"].as_u64().unwrap() < 8, "{state}");
    assert_eq!(state["queue"]["kind"], "redis", "{state}");
    assert_eq!(state["database"]["kind"], "postgres", "{state}");
    assert_eq!(state["database"]["pools"][0]["name"], "main", "{state}");
    assert!(!state.to_string().contains("tenant"), "{state}");
    let table = bench.success(&["debug", "state"]).stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(
        table.contains("check") && table.contains("token"),
        "{table}"
    );

    daemon.signal("USR1");
    let line = daemon.wait_for("\"run in flight\"");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["run"], run, "{line}");
    assert_eq!(line["phase"], "check", "{line}");
    assert!(line["calls"].as_str().unwrap().contains("token"), "{line}");
    let line = daemon.wait_for("\"state of this process\"");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["slots"], 8, "{line}");
    assert_eq!(line["queue_connected"], true, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_more_detailed_for_a_time_and_hold_no_secret() {
    let (bench, _folder, socket) = bench(SimulatorOptions::default()).await;
    let connection = bench.healthy(1);
    let token = bench.token(&["read"]);
    let mut daemon = bench.serve(&[]);
    for (filter, named) in [
        ("info,hyper=debug", "hyper=debug"),
        ("info,verifyd::provider=loud", "verifyd::provider=loud"),
        ("trace", "trace"),
    ] {
        let output = bench.run(&["debug", "log-filter", filter]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{named:?}: ")), "{said}");
    }

    let detailed = "verifyd=trace,sqlx::query=debug";
    let changed = bench.json(&["debug", "log-filter", detailed, "--for", "1h"]);
    assert!(
        changed["filter"].as_str().unwrap().ends_with(detailed),
        "{changed}"
    );
    assert!(
        changed["seconds_left"].as_u64().unwrap() <= 3600,
        "{changed}"
    );
    let client = reqwest::Client::new();
    let request = client.get(format!("http://{}/v1/runs", daemon.listening));
    let answer = request.bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    bench.enqueue(connection);
    bench.all_completed().await;
    daemon.wait_for("\"provider call\"");
    daemon.wait_for("\"sqlx::query\"");

    let back = bench.json(&["debug", "log-filter"]);
    assert_eq!(back["seconds_left"], Value::Null, "{back}");
    let state = bench.json(&["debug", "state"]);
    assert_eq!(state["log_filter"], back, "{state}");
    bench.json(&["debug", "log-filter", "verifyd=debug", "--for", "1s"]);
    let lines = || daemon.lines.lock().unwrap().clone();
    until("the second change has ended by itself", async || {
        let again = lines().into_iter();
        again
            .filter(|line| line.contains("log.filter again"))
            .count()
            == 2
    })
    .await;
    let logged = lines().join("\n");
    for secret in [SIMULATED_SECRET, KEY, token.as_str()] {
        assert!(!logged.contains(secret), "the log holds a secret");
    }
    daemon.terminate();
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_cannot_be_bound_stops_nothing() {
    let (mut bench, _folder, socket) = bench(SimulatorOptions::default()).await;
    // It is left behind by a process that is killed, and replaced.
    bench.serve(&[]).kill();
    assert!(socket.exists());
    let first = bench.serve(&[]);
    assert_eq!(bench.json(&["debug", "state"])["worker"], first.worker);
    // Another process has it.
    let mut second = bench.serve(&[]);
    second.wait_for("cannot bind debug.socket");
    assert_eq!(bench.json(&["debug", "state"])["worker"], first.worker);
    second.terminate();
    assert_eq!(bench.json(&["debug", "state"])["worker"], first.worker);

    bench.environment.remove("RUNTIME_DIRECTORY");
    let output = bench.run(&["debug", "state"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("debug.socket is not set"), "{said}");
}
