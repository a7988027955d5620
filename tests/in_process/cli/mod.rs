//! The command line on the embedded default.

use crate::simulated_cloud;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use test_support::ends_with_test::ends_with_test;
use verifyd_simulator::{RunningSimulator, Scenario, Simulator, SimulatorOptions};

mod acknowledgements;
mod bench;
mod connections;
mod credentials;
mod doctor;
mod first_report;
mod generated;
mod migrate;
mod modules;
mod names;
mod refusals;
mod rotation;

#[test]
fn help_texts() {
    trycmd::TestCases::new()
        .env("COLUMNS", "100")
        .case("tests/in_process/cli/*.trycmd");
}

/// A folder with an embedded database and perhaps `modules`, and a simulator.
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

    /// The command with these arguments, none of which holds a space.
    fn command(&self, line: &str) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_verifyd")), line)
    }

    fn prepared(&self, mut command: Command, line: &str) -> Command {
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("VERIFYD__LOG__FILTER", "warn")
            .env("VERIFYD__HTTP__LISTEN", "127.0.0.1:0")
            // A lock on the file is waited for a sixth of it: on a busy machine others hold it for long.
            .env("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "5m")
            .envs(simulated_cloud(&self.simulator.base_url))
            .current_dir(self.folder.path());
        if self.folder.path().join("modules").exists() {
            command.env("VERIFYD__MICROSOFT__MODULES_DIR", "modules");
        }
        command
    }

    fn run(&self, line: &str) -> Output {
        finish(self.command(line), "")
    }

    /// What this leaves, which has to end with this code.
    #[track_caller]
    fn ends(&self, line: &str, code: i32) -> Output {
        let output = self.run(line);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        output
    }

    /// The JSON that this prints before it ends with this code.
    #[track_caller]
    fn json_of(&self, line: &str, code: i32) -> Value {
        serde_json::from_slice(&self.ends(line, code).stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        self.json_of(line, 0)
    }

    /// A worker, until the end of the test.
    fn serve(&self) -> Serving {
        let mut command = ends_with_test("KILL");
        command.arg(env!("CARGO_BIN_EXE_verifyd"));
        let mut command = self.prepared(command, "serve");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Serving(command.spawn().unwrap())
    }

    /// Adds a connection of tenant 1. Returns its id.
    fn add(&self, scenario: Scenario, extra: &str, input: &str) -> String {
        let output = finish(self.command(&add_line(1, scenario, extra)), input);
        json(&output)["provider_connection_id"].to_string()
    }
}

/// Adds a connection of the tenant with this number.
fn add_line(number: u32, scenario: Scenario, extra: &str) -> String {
    let tenant = scenario.tenant_id(number);
    format!(
        "connections add --json --workspace 1 --tenant {number} --entra-tenant-id {tenant} \
         --client-id 5c000000-0000-4000-8000-c00000000001 --cloud simulated {extra}"
    )
}

/// What a command that succeeded has printed.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Time for a command to end. One that serves in place of refusing to does not.
const LIMIT: Duration = Duration::from_secs(300);

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
    let id = child.id().to_string();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(LIMIT).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-KILL", &id]).status();
        let arguments: Vec<_> = command.get_args().collect();
        panic!("it does not end: {arguments:?}")
    });
    output.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts that the text holds these words; a failure shows all of it.
#[track_caller]
fn assert_holds(text: &str, words: &str) {
    assert!(text.contains(words), "{words}: {text}");
}

/// A process that ends with its test.
pub struct Serving(pub std::process::Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
