//! The demo, and the way from an empty folder to a report.

use super::{Desk, assert_holds, finish, stderr, stdout};
use serde_json::Value;
use std::process::Command;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

#[test]
fn the_demo_ends_as_its_scenarios_say() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
    command.arg("demo").env_clear();
    let output = finish(command, "");
    let shown = stdout(&output);
    assert!(output.status.success(), "{shown}{}", stderr(&output));
    for word in [
        "succeeded",
        "failed",
        "blocked",
        "secret_expired",
        "15 as expected",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains('✗') || shown.contains("What is wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_folder_to_a_report() {
    let desk = Desk::new().await;
    let secret = "--secret-stdin";
    let healthy = desk.add(Scenario::Healthy, secret, &format!("{SIMULATED_SECRET}\n"));
    let failing = desk.add(Scenario::SecretExpired, secret, SIMULATED_SECRET);
    let blocked = desk.add(Scenario::Healthy, "", "");
    let _serving = desk.serve();

    for (connection, code, word) in [
        (&healthy, 0, "SUCCEEDED"),
        (&failing, 10, "The client secret has expired."),
        (&blocked, 11, "credential_missing"),
    ] {
        let enqueue = format!("enqueue --connection {connection} --wait 120");
        assert_holds(&stdout(&desk.ends(&enqueue, code)), word);
    }
    let enqueue = format!("enqueue --connection {failing} --wait 120 --json");
    let run = desk.json_of(&enqueue, 10);
    assert_eq!(run["outcome"], "failed");
    let id = run["operation_run_id"].to_string();

    let shown = desk.json(&format!("runs show {id} --json"));
    assert_eq!(shown["attempts"][0]["end_reason"], "completed");
    let shown = desk.run(&format!("runs show {id}"));
    assert_holds(&stdout(&shown), "What is wrong");
    // The second report of the connection says that nothing changed.
    let diff = desk.json(&format!("runs diff {id} --json"));
    assert_eq!(diff["unchanged"], true);
    let diff = desk.run(&format!("runs diff {id}"));
    assert_holds(&stdout(&diff), "Nothing changed");
    // What `runs show` prints can be validated as it is.
    let row = desk.folder.path().join("row.json");
    std::fs::write(&row, serde_json::to_vec(&run).unwrap()).unwrap();
    let validated = desk.run(&format!("report validate {}", row.display()));
    assert!(validated.status.success(), "{}", stdout(&validated));

    // Of two runs one holds the connection's latest report: however old, it stays.
    desk.ends("prune", 2);
    let prune = "prune --older-than 0s --json";
    let count = || {
        let runs = desk.json("runs list --json");
        runs.as_array().unwrap().len()
    };
    let before = count();
    let young = desk.json("prune --older-than 1h --json");
    assert_eq!(young["runs"], 0);
    assert_eq!(desk.json(&format!("{prune} --dry-run"))["runs"], 1);
    let pruned = desk.json(prune);
    assert_eq!(
        (&pruned["runs"], &pruned["attempts"]),
        (&1.into(), &1.into())
    );
    assert_eq!(desk.json(prune)["runs"], 0);
    assert_eq!(count(), before - 1);
    assert!(desk.run(&format!("runs show {id}")).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_wait_ends_and_the_active_run_is_returned() {
    let desk = Desk::new().await;
    let connection = desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    let enqueue = format!("enqueue --connection {connection} --json");
    let first = desk.json(&enqueue);
    assert_eq!(desk.json(&enqueue), first);
    desk.ends(&format!("{enqueue} --wait 1"), 12);

    let runs = desk.json("runs list --status queued --json");
    assert_eq!(runs.as_array().unwrap().len(), 1);
    assert_eq!(runs[0]["operation_run_id"], first["operation_run_id"]);
    let none = desk.json("runs list --outcome failed --json");
    assert_eq!(none, serde_json::json!([]));
}

#[test]
fn reports_in_files_are_validated() {
    let folder = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_str(verifyd::domain::report::schema::SCHEMA).unwrap();
    let validate = |document: &Value| {
        let file = folder.path().join("report.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
        command.args(["report", "validate", file.to_str().unwrap()]);
        finish(command, "")
    };
    for example in schema["examples"].as_array().unwrap() {
        let output = validate(example);
        assert!(output.status.success(), "{}", stdout(&output));

        let mut forged = example.clone();
        forged["checks"][0]["blocking"] = Value::Bool(false);
        let output = validate(&forged);
        assert_eq!(output.status.code(), Some(1));
    }
    let mut wrong = schema["examples"][0].clone();
    wrong["summary"]["counts"]["pass"] = 7.into();
    assert!(stdout(&validate(&wrong)).contains("/summary"));
    let output = validate(&Value::Null);
    assert_eq!(output.status.code(), Some(1));
}
