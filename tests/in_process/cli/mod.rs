//! The command line: help texts, exit codes, messages, and the whole story on the embedded default.

use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use verifyd_simulator::{
    RunningSimulator, SIMULATED_SECRET, Scenario, Simulator, SimulatorOptions,
};

mod acknowledgements;
mod bench;
mod credentials;
mod modules;
mod refusals;

#[test]
fn help_texts() {
    trycmd::TestCases::new()
        .env("COLUMNS", "100")
        .case("tests/in_process/cli/*.trycmd");
}

/// A folder with an embedded database, and a simulator.
struct Desk {
    folder: tempfile::TempDir,
    simulator: RunningSimulator,
}

impl Desk {
    async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            simulator: Simulator::start(SimulatorOptions::default()).await.unwrap(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
        command
            .args(arguments)
            .env_clear()
            .env("VERIFYD__LOG__FILTER", "warn")
            .env("VERIFYD__HTTP__LISTEN", "127.0.0.1:0")
            .env(
                "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN",
                &self.simulator.base_url,
            )
            .env(
                "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH",
                &self.simulator.base_url,
            )
            .env(
                "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__PORTAL",
                "https://entra.microsoft.com",
            )
            .current_dir(self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        finish(self.command(arguments), input)
    }

    fn json(&self, arguments: &[&str], input: &str) -> Value {
        let output = self.run(arguments, input);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn add(&self, scenario: Scenario, extra: &[&str], input: &str) -> String {
        let tenant = scenario.tenant_id(1);
        let mut arguments = vec![
            "connections",
            "add",
            "--json",
            "--workspace",
            "1",
            "--tenant",
            "1",
            "--entra-tenant-id",
            &tenant,
            "--client-id",
            "5c000000-0000-4000-8000-c00000000001",
            "--cloud",
            "simulated",
        ];
        arguments.extend(extra);
        self.json(&arguments, input)["provider_connection_id"].to_string()
    }
}

fn finish(command: Command, input: &str) -> Output {
    finish_with(command, input.as_bytes())
}

fn finish_with(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it early.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ends with its test.
struct Serving(std::process::Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    let secret = &["--secret-stdin"];
    let healthy = desk.add(Scenario::Healthy, secret, &format!("{SIMULATED_SECRET}\n"));
    let failing = desk.add(Scenario::SecretExpired, secret, SIMULATED_SECRET);
    let blocked = desk.add(Scenario::Healthy, &[], "");
    let _serving = Serving(
        desk.command(&["serve"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );

    for (connection, code, word) in [
        (&healthy, 0, "SUCCEEDED"),
        (&failing, 10, "The client secret has expired."),
        (&blocked, 11, "credential_missing"),
    ] {
        let output = desk.run(
            &["enqueue", "--connection", connection, "--wait", "120"],
            "",
        );
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stdout(&output).contains(word), "{}", stdout(&output));
    }
    let output = desk.run(
        &[
            "enqueue",
            "--connection",
            &failing,
            "--wait",
            "120",
            "--json",
        ],
        "",
    );
    assert_eq!(output.status.code(), Some(10));
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["outcome"], "failed");
    let id = run["operation_run_id"].to_string();

    let shown = desk.json(&["runs", "show", &id, "--json"], "");
    assert_eq!(shown["attempts"][0]["end_reason"], "completed");
    let shown = desk.run(&["runs", "show", &id], "");
    assert!(
        stdout(&shown).contains("What is wrong"),
        "{}",
        stdout(&shown)
    );
    // The second report of the connection says that nothing changed.
    let diff = desk.json(&["runs", "diff", &id, "--json"], "");
    assert_eq!(diff["unchanged"], true);
    let diff = desk.run(&["runs", "diff", &id], "");
    assert!(
        stdout(&diff).contains("Nothing changed"),
        "{}",
        stdout(&diff)
    );
    // What `runs show` prints can be validated as it is.
    let row = desk.folder.path().join("row.json");
    std::fs::write(&row, serde_json::to_vec(&run).unwrap()).unwrap();
    let validated = desk.run(&["report", "validate", row.to_str().unwrap()], "");
    assert!(validated.status.success(), "{}", stdout(&validated));

    // Of two runs one holds the connection's latest report: however old, it stays.
    let output = desk.run(&["prune"], "");
    assert_eq!(output.status.code(), Some(2));
    let prune = ["prune", "--older-than", "0s", "--json"];
    let count = || {
        let runs = desk.json(&["runs", "list", "--json"], "");
        runs.as_array().unwrap().len()
    };
    let before = count();
    let young = desk.json(&["prune", "--older-than", "1h", "--json"], "");
    assert_eq!(young["runs"], 0);
    let mut dry = prune.to_vec();
    dry.push("--dry-run");
    assert_eq!(desk.json(&dry, "")["runs"], 1);
    let pruned = desk.json(&prune, "");
    assert_eq!(
        (&pruned["runs"], &pruned["attempts"]),
        (&1.into(), &1.into())
    );
    assert_eq!(desk.json(&prune, "")["runs"], 0);
    assert_eq!(count(), before - 1);
    assert!(desk.run(&["runs", "show", &id], "").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_wait_ends_and_the_active_run_is_returned() {
    let desk = Desk::new().await;
    let connection = desk.add(Scenario::Healthy, &["--secret-stdin"], SIMULATED_SECRET);
    let arguments = ["enqueue", "--connection", &connection, "--json"];
    let first = desk.json(&arguments, "");
    let second = desk.json(&arguments, "");
    assert_eq!(first, second);
    let mut waiting = arguments.to_vec();
    waiting.extend(["--wait", "1"]);
    assert_eq!(desk.run(&waiting, "").status.code(), Some(12));

    let runs = desk.json(&["runs", "list", "--status", "queued", "--json"], "");
    assert_eq!(runs.as_array().unwrap().len(), 1);
    assert_eq!(runs[0]["operation_run_id"], first["operation_run_id"]);
    let none = desk.json(&["runs", "list", "--outcome", "failed", "--json"], "");
    assert_eq!(none, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_disabled_and_given_new_credentials() {
    let desk = Desk::new().await;
    let id = desk.add(
        Scenario::Healthy,
        &["--secret-stdin", "--expires-at", "2031-01-02T03:04:05Z"],
        SIMULATED_SECRET,
    );
    let shown = desk.json(&["connections", "show", &id, "--json"], "");
    assert_eq!(shown["credential"]["kind"], "client_secret");
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(shown["credential"]["expires_at"], "2031-01-02T03:04:05Z");
    assert!(!shown.to_string().contains(SIMULATED_SECRET));

    desk.json(&["connections", "disable", &id, "--json"], "");
    let listed = desk.json(&["connections", "list", "--json"], "");
    assert_eq!(listed[0]["status"], "disabled");
    desk.json(&["connections", "enable", &id, "--json"], "");

    let token = desk.folder.path().join("token");
    let changed = desk.json(
        &[
            "connections",
            "set-credential",
            &id,
            "--json",
            "--federated-token-file",
            token.to_str().unwrap(),
        ],
        "",
    );
    assert_eq!(changed["kind"], "federated_token_file");

    // A certificate's expiry is read from it.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut parameters = rcgen::CertificateParams::new(["cli.invalid".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2030, 5, 6);
    let certificate = parameters.self_signed(&key).unwrap();
    let pem = desk.folder.path().join("certificate.pem");
    std::fs::write(
        &pem,
        format!("{}{}", certificate.pem(), key.serialize_pem()),
    )
    .unwrap();
    let changed = desk.json(
        &[
            "connections",
            "set-credential",
            &id,
            "--json",
            "--certificate",
            pem.to_str().unwrap(),
        ],
        "",
    );
    assert_eq!(changed["expires_at"], "2030-05-06T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated() {
    const OLD: &str = "old:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const NEW: &str = "new:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    let desk = Desk::new().await;
    let with = |keys: &str, arguments: &[&str], input: &str| {
        let mut command = desk.command(arguments);
        command.env("VERIFYD__CREDENTIALS__KEYS", keys);
        finish(command, input)
    };
    let added = with(
        OLD,
        &[
            "connections",
            "add",
            "--workspace",
            "1",
            "--tenant",
            "1",
            "--entra-tenant-id",
            &Scenario::Healthy.tenant_id(1),
            "--client-id",
            "5c000000-0000-4000-8000-c00000000001",
            "--cloud",
            "simulated",
            "--secret-stdin",
        ],
        SIMULATED_SECRET,
    );
    assert!(added.status.success(), "{}", stderr(&added));
    let webhook = [
        "webhooks",
        "add",
        "--workspace",
        "1",
        "--url",
        "https://app.example/",
    ];
    let added = with(OLD, &webhook, "");
    assert!(added.status.success(), "{}", stderr(&added));
    let rotate = ["connections", "rotate-keys", "--json"];
    let lost = with(NEW, &rotate, "");
    assert_eq!(lost.status.code(), Some(1));
    assert!(stderr(&lost).contains("connections 1"), "{}", stderr(&lost));
    let both = format!("{NEW},{OLD}");
    for rotated in [1, 0] {
        let output = with(&both, &rotate, "");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["rotated"], rotated);
        assert_eq!(told["webhooks"]["rotated"], rotated);
    }
    let shown = with(NEW, &["connections", "show", "1", "--json"], "");
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(shown["credential"]["needs_rotation"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_what_is_allowed() {
    let desk = Desk::new().await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let client = "5c000000-0000-4000-8000-c00000000001";
    let add = |changed: &str, value: &str| {
        let mut arguments = vec![
            "connections",
            "add",
            "--workspace",
            "1",
            "--tenant",
            "1",
            "--entra-tenant-id",
            &tenant,
            "--client-id",
            client,
            "--cloud",
            "simulated",
            "--module",
            "intune",
        ];
        match arguments.iter().position(|a| *a == changed) {
            Some(at) => arguments[at + 1] = value,
            None => arguments.extend([changed, value]),
        }
        let output = desk.run(&arguments, "");
        assert!(!output.status.success(), "{changed} {value}");
        let said = stderr(&output);
        assert!(said.contains(changed.trim_start_matches('-')), "{said}");
        said
    };
    assert!(add("--entra-tenant-id", "contoso").contains("a GUID"));
    assert!(add("--client-id", "5").contains("a GUID"));
    assert!(add("--cloud", "moon").contains("global"));
    assert!(add("--module", "teleport").contains("health_check"));
    assert!(add("--provider", "acme").contains("microsoft"));
    assert!(add("--workspace", "one").contains("a whole number from 1 to"));
    assert!(add("--federated-token-file", "relative/path").contains("absolute"));
    add("--certificate", "does-not-exist.pem");

    let unknown = desk.run(&["runs", "show", "99"], "");
    assert!(stderr(&unknown).contains("run 99: no such run"));
    let unknown = desk.run(&["enqueue", "--connection", "99"], "");
    assert!(stderr(&unknown).contains("connection 99: no such connection"));
    let mut command = desk.command(&["config", "print"]);
    command.env("VERIFYD__WORKER__CONCURENCY", "5");
    let output = finish(command, "");
    assert!(
        stderr(&output).contains("did you mean worker.concurrency?"),
        "{}",
        stderr(&output)
    );
    let output = desk.run(&["serve", "--concurrency", "0"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 to 4096"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_config_on_the_embedded_default() {
    let desk = Desk::new().await;
    let before = desk.run(&["doctor", "--json"], "");
    let told: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!(told["ok"], false);
    assert!(stdout(&before).contains("verifyd migrate"));
    let migrated = desk.json(&["migrate", "--json"], "");
    assert!(!migrated["applied"].as_array().unwrap().is_empty());
    let again = desk.json(&["migrate", "--json"], "");
    assert_eq!(again["applied"], serde_json::json!([]));
    let after = desk.run(&["doctor"], "");
    assert!(after.status.success(), "{}", stdout(&after));
    for part in [
        "config", "database", "schema", "guards", "queue", "keys", "runs",
    ] {
        assert!(stdout(&after).contains(part), "{}", stdout(&after));
    }
    let enforced = desk.json(&["migrate", "--enforce", "--json"], "");
    assert_eq!(enforced["guards"]["added"], serde_json::json!([]));
    assert_eq!(
        enforced["guards"]["in_place"][0],
        "verifyd_guard_completed_run"
    );
    let printed = desk.json(&["config", "print", "--json"], "");
    assert_eq!(printed["worker.concurrency"]["value"], 64);
    let default = desk.run(&["config", "default"], "");
    assert!(stdout(&default).contains("[database]"));
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
