//! `doctor`, `migrate` and `config` before anything is there.

use super::{Desk, assert_holds, finish, stderr, stdout};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_config_on_the_embedded_default() {
    let desk = Desk::new().await;
    // `serve` would create the tables itself.
    let before = desk.json("doctor --json");
    let parts = before["parts"].as_array().unwrap();
    let schema = parts.iter().find(|part| part["part"] == "schema").unwrap();
    assert_eq!(schema["state"], "warning");
    assert_holds(schema["remedy"].as_str().unwrap(), "verifyd migrate");
    let migrated = desk.json("migrate --json");
    assert!(!migrated["applied"].as_array().unwrap().is_empty());
    let again = desk.json("migrate --json");
    assert_eq!(again["applied"], serde_json::json!([]));
    let after = desk.run("doctor");
    assert!(after.status.success(), "{}", stdout(&after));
    for part in [
        "version", "config", "database", "schema", "guards", "queue", "keys", "runs",
    ] {
        assert_holds(&stdout(&after), part);
    }
    let enforced = desk.json("migrate --enforce --json");
    assert_eq!(enforced["guards"]["added"], serde_json::json!([]));
    assert_eq!(
        enforced["guards"]["in_place"][0],
        "verifyd_guard_completed_run"
    );
    let printed = desk.json("config print --json");
    assert_eq!(printed["worker.concurrency"]["value"], 64);
    let default = desk.run("config default");
    assert!(stdout(&default).contains("[database]"));
}

/// What brings the embedded database up to date when a command opens it.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_at_the_start_are_logged_by_number_and_name() {
    let desk = Desk::new().await;
    let logged = || {
        let mut command = desk.command("runs list");
        command.env("VERIFYD__LOG__FILTER", "info");
        let output = finish(command, "");
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = logged();
    assert_holds(&said, "migrations applied");
    assert_holds(&said, "0001_verifyd_state, 0002_application_tables, ");
    let again = logged();
    assert!(!again.contains("migrations applied"), "{again}");
}
