//! The commands of the README's tour and of the tutorial work as they stand.
//!
//! Fenced blocks marked `sh` are run, in order, by one shell in an empty folder; other blocks (`bash`, `text`)
//! are not: `named_commands` compares those of the README with the program. What a reader has to fill in stands
//! in lines `export NAME=value`: the test gives some of these names its own values. The simulator stands for
//! Microsoft's services, SQLite for the database.

use crate::cli::Serving;
use crate::simulated_cloud;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use test_support::ends_with_test::ends_with_test;

/// Guards against hanging only.
const TIMEOUT: Duration = Duration::from_secs(300);
/// A tenant of the simulator in which nothing is wrong.
const HEALTHY_TENANT: &str = "5c000000-0000-4000-8000-000000000001";
const CLIENT: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "simulated~client.secret_opens-nothing-real";

/// The blocks of a page that are marked so, each after the line on which it begins.
pub(super) fn blocks(page: &str, mark: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_inside = false;
    for (event, range) in Parser::new(page).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) if *language == *mark => {
                is_inside = true;
                let line = page[..range.start].matches('\n').count() + 1;
                found.push((line, String::new()));
            }
            Event::Text(text) if is_inside => found.last_mut().unwrap().1.push_str(&text),
            Event::End(TagEnd::CodeBlock) => is_inside = false,
            _ => {}
        }
    }
    found
}

/// The block with other values for these variables, where it exports them.
fn filled_in(block: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    for line in block.lines() {
        let export = line
            .strip_prefix("export ")
            .and_then(|rest| rest.split_once('='));
        let value = export.and_then(|(name, _)| values.iter().find(|(known, _)| *known == name));
        match value {
            Some((name, value)) => writeln!(filled, "export {name}='{value}'"),
            None => writeln!(filled, "{line}"),
        }
        .unwrap();
    }
    filled
}

/// The simulator as a process of its own, and its address.
fn simulator() -> (Serving, String) {
    let mut process = ends_with_test("KILL")
        .arg(env!("CARGO_BIN_EXE_verifyd"))
        .args(["simulate", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    (Serving(process), address.trim().to_owned())
}

/// An address of this machine that nobody uses.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Runs the blocks of a page with a reader's values. Asserts that every command succeeds and that all of this is
/// printed. Processes that they leave behind are ended.
fn assert_works(path: &str, simulator: &str, values: &[(&str, &str)], wanted: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let blocks = blocks(&std::fs::read_to_string(root.join(path)).unwrap(), "sh");
    assert!(!blocks.is_empty(), "{path} has no block marked sh");
    let mut script = String::from("set -euo pipefail\n");
    for (line, block) in &blocks {
        let filled = filled_in(block, values);
        writeln!(script, "echo \"{path}:{line}\" >&2\n{filled}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("stdout");
    let complaints = folder.path().join("stderr");
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_verifyd")).parent().unwrap();
    let binaries = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    // Files and not pipes: a daemon that a page leaves behind would keep a pipe open.
    let mut shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&work)
        .env_clear()
        .env("PATH", binaries)
        .env("HOME", &work)
        .envs(simulated_cloud(simulator))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&printed).unwrap())
        .stderr(std::fs::File::create(&complaints).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = shell.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > TIMEOUT {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let group = format!("-{}", shell.id());
    let _ = Command::new("kill")
        .args(["-KILL", "--", &group])
        .stderr(Stdio::null())
        .status();
    let _ = shell.wait();
    let read = |file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    // The last line of a page that was begun is the block that failed.
    let (printed, complaints) = (read(&printed), read(&complaints));
    let status = status.unwrap_or_else(|| panic!("{path} takes too long:\n{complaints}"));
    assert!(status.success(), "{status}:\n{printed}\n{complaints}");
    for wanted in wanted {
        assert!(
            printed.contains(wanted),
            "{path} prints no {wanted}:\n{printed}\n{complaints}"
        );
    }
}

#[test]
fn the_tour_of_the_readme_works() {
    let (_simulator, address) = &simulator();
    let values: [(&str, &str); 3] = [
        // The tenant is one of the simulator already.
        ("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN", address),
        ("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH", address),
        ("VERIFYD__HTTP__LISTEN", &free_address()),
    ];
    let wanted = ["SUCCEEDED", "permission_not_consented", "\"outcome\""];
    assert_works("README.md", address, &values, &wanted);
}

#[test]
fn the_tutorial_works() {
    let (_simulator, address) = &simulator();
    let values: [(&str, &str); 5] = [
        ("ENTRA_TENANT_ID", HEALTHY_TENANT),
        ("ENTRA_CLIENT_ID", CLIENT),
        ("ENTRA_CLIENT_SECRET", SECRET),
        ("ENTRA_CLOUD", "simulated"),
        ("VERIFYD__HTTP__LISTEN", &free_address()),
    ];
    let wanted = ["SUCCEEDED", "The connection works"];
    assert_works("docs/tutorial.md", address, &values, &wanted);
}

#[test]
fn blocks_are_found_and_filled_in() {
    let page = "# A\n\n```sh\nexport B=1   # yours\nexport C=2\n```\n\n```bash\nno\n```\n\n- d\n\n  ```sh\n  e\n  ```\n";
    let found = blocks(page, "sh");
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 14]);
    assert_eq!(found[1].1, "e\n");
    let filled = filled_in(&found[0].1, &[("B", "x y")]);
    assert_eq!(filled, "export B='x y'\nexport C=2\n");
}
