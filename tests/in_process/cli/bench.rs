//! `verifyd bench` on the embedded default.

use super::{assert_holds, finish, stderr, stdout};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn bench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
    command
        .arg("bench")
        .args(arguments)
        .env_clear()
        .current_dir(folder);
    command
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn figures_of_the_embedded_default_and_no_file_left() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("verifyd.db"),
        "somebody's, not to be read",
    )
    .unwrap();
    let arguments = [
        "--runs",
        "50",
        "--latency-samples",
        "5",
        "--tenants",
        "7",
        "--concurrency",
        "8",
        "--provider-delay",
        "2ms",
        "--json",
    ];
    let output = finish(bench(folder.path(), &arguments), "");
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(told["drain"]["runs"], 50);
    assert_eq!(told["settings"]["tenants"], 7);
    assert_eq!(told["settings"]["concurrency"], 8);
    assert_eq!(told["settings"]["queue"], "in_process");
    let number = |path: &str| {
        let value = told.pointer(path).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("{path} is no number: {told}"))
    };
    let seconds = number("/drain/seconds");
    let rate = number("/drain/runs_per_second");
    assert!((rate * seconds - 50.0).abs() < 0.5, "{told}");
    let in_flight = number("/drain/in_flight_mean");
    assert!(in_flight > 0.0 && in_flight <= 8.0, "{told}");
    let shares: f64 = ["provider", "own_cpu", "database"]
        .iter()
        .map(|part| number(&format!("/drain/shares/{part}")))
        .sum();
    assert!((shares - 1.0).abs() < 1e-6, "{told}");
    assert!(number("/drain/shares/provider") > 0.0, "{told}");
    assert!(number("/drain/cpu_seconds_per_1000_runs") > 0.0, "{told}");
    // The provider was waited for, at least once in each.
    assert!(number("/latency_ms/p50") >= 2.0, "{told}");
    assert!(number("/latency_ms/p50") <= number("/latency_ms/max"));
    assert!(number("/enqueue/single_per_second") > 0.0);
    assert!(number("/enqueue/bulk_per_second") > 0.0);
    assert!(number("/round_trip_ms/database/idle") > 0.0);
    assert!(number("/round_trip_ms/database/loaded") > 0.0);
    let limit = &told["limit"];
    assert!(limit["what"].is_string(), "{told}");
    assert!(
        limit["sentence"].as_str().unwrap().contains("runs/s"),
        "{told}"
    );

    assert_eq!(files(folder.path()), ["verifyd.db"]);
    let kept = std::fs::read_to_string(folder.path().join("verifyd.db")).unwrap();
    assert_eq!(kept, "somebody's, not to be read");
}

#[test]
fn people_are_told_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--runs", "1", "--latency-samples", "1", "--tenants", "1"];
    let output = finish(bench(folder.path(), &arguments), "");
    // Wherever its lines are broken.
    let shown = stdout(&output);
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(output.status.success(), "{shown}{}", stderr(&output));
    for words in ["runs/s", "p99", "one by one", "on the database"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bench(folder.path(), &[]);
    command.env("DATABASE_URL", "postgres://u:canary@127.0.0.1:1/app");
    let output = finish(command, "");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_holds(&said, "no database can be made");
    assert!(!said.contains("canary"), "{said}");
}
