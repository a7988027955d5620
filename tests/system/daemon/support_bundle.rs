//! `verifyd support-bundle`: everything that explains a failure, and nothing of a tenant and no secret.

use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use test_support::bench::{Bench, KEY};
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

/// Numbers that nothing else has.
const WORKSPACE: i64 = 918_273_645;
const TENANT: i64 = 645_738_291;
const NAME: &str = "Contoso Canary";

type Files = BTreeMap<String, Vec<u8>>;

/// The files of a bundle, by name.
fn files(compressed: impl Read) -> Files {
    let mut archive = tar::Archive::new(GzDecoder::new(compressed));
    let entries = archive.entries().unwrap();
    let files = entries.map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        assert!(path.starts_with("verifyd-support"), "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    });
    files.collect()
}

fn json(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

fn text(files: &Files, name: &str) -> String {
    String::from_utf8(files[name].clone()).unwrap()
}

/// Fails if a file holds one of these.
fn hold_none_of(files: &Files, canaries: &[&str]) {
    for (name, content) in files {
        let content = String::from_utf8_lossy(content);
        for canary in canaries {
            assert!(
                !content.contains(canary),
                "{name} holds {canary}: {content}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_explains_a_failure_without_tenants_and_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    bench.set("RUNTIME_DIRECTORY", folder.path().to_str().unwrap());
    let entra = Scenario::SecretExpired.tenant_id(7);
    let owner = (WORKSPACE, TENANT);
    let connection = bench.connection_of(owner, &entra, "health_check", SIMULATED_SECRET);
    let daemon = bench.serve(&[]);
    bench.set("VERIFYD__HTTP__LISTEN", daemon.listening.as_str());
    bench.enqueue(connection);
    bench.all_completed().await;
    // Names of a tenant, one of them where a producer got a row wrong.
    let named = format!(
        "UPDATE provider_connections SET display_name = '{NAME}';
         UPDATE tenants SET name = '{NAME}';
         ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_outcome;
         INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome)
         VALUES ({WORKSPACE}, {TENANT}, 'provider.connection.check', 'queued', '{NAME}');
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION '{NAME} %', new.context USING ERRCODE = '40001'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON operation_runs
         FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    bench.execute(&named).await;
    // The rights of `serve` suffice.
    bench.grant().await;
    bench.become_role("verifyd_serve");

    let path = folder.path().join("bundle.tar.gz");
    let command = ["support-bundle", "--output", path.to_str().unwrap()];
    bench.success(&command);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let found = files(File::open(&path).unwrap());
    let (workspace, tenant) = (WORKSPACE.to_string(), TENANT.to_string());
    let secrets = [SIMULATED_SECRET, KEY];
    let tenants = [workspace.as_str(), &tenant, &entra, NAME];
    hold_none_of(&found, &[&secrets[..], &tenants].concat());
    // Each part was had.
    hold_none_of(&found, &["\"error\":"]);

    let manifest = json(&found, "manifest.json");
    assert_eq!(manifest["with_tenant_data"], false);
    assert_eq!(manifest["verifyd"]["version"], env!("CARGO_PKG_VERSION"));
    let mut listed: Vec<(String, usize)> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            let bytes = file["bytes"].as_u64().unwrap();
            let name = file["name"].as_str().unwrap();
            (name.to_owned(), usize::try_from(bytes).unwrap())
        })
        .collect();
    listed.sort();
    let others = found.iter().filter(|(name, _)| *name != "manifest.json");
    let others: Vec<(String, usize)> = others
        .map(|(name, content)| (name.clone(), content.len()))
        .collect();
    assert_eq!(listed, others);

    let failures = json(&found, "failures.json");
    let expired = &failures["reasons"]["failed"]["secret_expired"];
    assert_eq!(expired["runs"], 1, "{failures}");
    assert!(expired["latest"].is_string(), "{failures}");
    assert_eq!(failures["invalid_runs"]["outcome"], 1, "{failures}");
    let database = json(&found, "database.json");
    assert_eq!(database["kind"], "postgres");
    let applied = database["applied_migrations"].as_array().unwrap();
    assert_eq!(applied.last(), Some(&database["wanted_schema_version"]));
    let tables = database["tables"].as_array().unwrap();
    for name in ["operation_runs", "verifyd.run_attempts"] {
        let size = tables
            .iter()
            .find(|size| size["table"].as_str().unwrap().ends_with(name));
        assert!(size.unwrap()["bytes"].as_i64().unwrap() > 0, "{database}");
    }
    assert!(json(&found, "queue.json")["version"].is_string());
    assert_eq!(json(&found, "state.json")["state"]["worker"], daemon.worker);
    assert!(text(&found, "metrics.txt").contains("verifyd_runs_processed_total"));
    assert!(text(&found, "config.toml").contains("[worker]"));
    assert!(text(&found, "doctor.json").contains("it may quote rows"));

    // It is not overwritten.
    let output = bench.run(&command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(files(File::open(&path).unwrap()), found);

    // Out of a container whose root is read-only there is no other way.
    let output = bench.success(&["support-bundle", "--output", "-"]);
    let streamed = files(output.stdout.as_slice());
    assert!(streamed.keys().eq(found.keys()), "{:?}", streamed.keys());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("what doctor finds"), "{said}");

    let path = folder.path().join("with-tenants.tar.gz");
    let output = path.to_str().unwrap();
    bench.success(&["support-bundle", "--with-tenant-data", "--output", output]);
    let found = files(File::open(&path).unwrap());
    hold_none_of(&found, &secrets);
    assert!(text(&found, "doctor.json").contains(NAME));
    assert_eq!(json(&found, "runs.json")[0]["tenant_id"], TENANT);
}

/// What cannot be had is named, and the rest is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_made_while_nothing_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    let nowhere = "postgres://verifyd@127.0.0.1:1/none";
    bench.set("DATABASE_URL", nowhere);
    bench.set("REDIS_URL", "redis://127.0.0.1:1");
    bench.set("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "1s");
    let path = folder.path().join("bundle.tar.gz");
    bench.success(&["support-bundle", "--output", path.to_str().unwrap()]);
    let found = files(File::open(&path).unwrap());
    for name in ["state.json", "queue.json", "database.json", "failures.json"] {
        assert!(json(&found, name)["error"].is_string(), "{name}");
    }
    assert!(text(&found, "doctor.json").contains("database"));
    assert!(text(&found, "config.toml").contains("127.0.0.1:1"));
}
