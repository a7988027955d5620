//! `doctor`, `migrate` and `config` before anything is there.

use super::{Desk, assert_holds, stdout};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_config_on_the_embedded_default() {
    let desk = Desk::new().await;
    let before = desk.run("doctor --json");
    let told: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!(told["ok"], false);
    assert!(stdout(&before).contains("verifyd migrate"));
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
