//! A producer that writes the file of the embedded default with its own library of SQLite.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use test_support::bench::Bench;
use test_support::waiting::until;
use verifyd_simulator::SimulatorOptions;

/// Python comes with a library of SQLite. Records a run and prints its id, or saves an older copy of a run.
const PRODUCER: &str = r#"
import sqlite3, sys

path, act, id = sys.argv[1:]
db = sqlite3.connect(path, timeout=100)
with db:
    if act == "record":
        run = db.execute(
            """
            INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
            SELECT workspace_id, tenant_id, 'provider.connection.check', 'queued',
                   json_object('provider', provider, 'module', module, 'provider_connection_id', id,
                               'target_scope', json_object('entra_tenant_id', entra_tenant_id)),
                   strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
            FROM provider_connections WHERE id = ?
            """,
            [id],
        )
        print(run.lastrowid)
    else:
        db.execute(
            "UPDATE operation_runs SET status = 'queued', outcome = NULL, completed_at = NULL,"
            " context = '{\"note\": 1}' WHERE id = ?",
            [id],
        )
"#;

/// Does this for the connection, or to the run, of this id; returns what it prints.
fn produce(file: &Path, act: &str, id: i64) -> String {
    let output = Command::new("python3")
        .args(["-c", PRODUCER])
        .arg(file)
        .args([act, &id.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_records_runs_with_its_own_library_of_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verifyd.db");
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench.environment.remove("REDIS_URL");
    bench.set("DATABASE_URL", format!("sqlite:{}", file.display()));
    bench.success(&["migrate"]);
    let connection = bench.healthy(1);
    let _worker = bench.serve(&[]);
    let run = produce(&file, "record", connection);
    let show = || -> Value { bench.json(&["runs", "show", &run]) };
    until("the run is completed", async || {
        show()["status"] == "completed"
    })
    .await;
    let completed = show();
    assert_eq!(completed["outcome"], "succeeded", "{completed}");
    // Its library runs the guards, too.
    produce(&file, "save", run.parse().unwrap());
    let saved = show();
    for member in ["status", "outcome", "completed_at"] {
        assert_eq!(saved[member], completed[member], "{member}");
    }
    let report = &completed["context"]["verification_report"];
    let wanted = json!({ "note": 1, "verification_report": report });
    assert_eq!(saved["context"], wanted);
}
