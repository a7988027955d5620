//! The commands of the README's tour and of the tutorial work as they stand.
//!
//! Fenced blocks marked `sh` are run, in order, by one shell in an empty folder; other blocks (`bash`, `text`)
//! are not. What a reader has to fill in stands in lines `export NAME=value`: the test gives its own values to
//! the names of [`Page::values`]. The simulator stands for Microsoft's services, SQLite for the database.

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Guards against hanging only.
const TIMEOUT: Duration = Duration::from_secs(300);
/// A tenant of the simulator in which nothing is wrong.
const HEALTHY_TENANT: &str = "5c000000-0000-4000-8000-000000000001";
const CLIENT: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "simulated~client.secret_opens-nothing-real";

/// A block that is run, and the line on which it begins.
#[derive(Debug)]
struct Block {
    line: usize,
    text: String,
}

/// The blocks of a page that are marked `sh`.
fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for (event, range) in Parser::new(page).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) if &*language == "sh" => {
                is_inside = true;
                found.push(Block {
                    line: page[..range.start].matches('\n').count() + 1,
                    text: String::new(),
                });
            }
            Event::Text(text) if is_inside => found.last_mut().unwrap().text.push_str(&text),
            Event::End(TagEnd::CodeBlock) => is_inside = false,
            _ => {}
        }
    }
    found
}

/// The block with other values for these variables, where it exports them.
fn filled_in(block: &str, values: &[(&str, String)]) -> String {
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

/// The simulator as a process of its own, ended when this is dropped.
struct Simulator {
    process: Child,
    address: String,
}

impl Simulator {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_verifyd"))
            .args(["simulate", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            process,
            address: address.trim().to_owned(),
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page, and what its reader would fill in.
struct Page {
    path: &'static str,
    values: Vec<(&'static str, String)>,
}

/// An address of this machine that nobody uses.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Runs the blocks of a page. Processes that they leave behind are ended.
fn run(page: &Page, simulator: &Simulator) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(page.path)).unwrap();
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "{} has no block marked sh", page.path);
    let mut script = String::from("set -euo pipefail\n");
    for block in &blocks {
        let filled = filled_in(&block.text, &page.values);
        writeln!(
            script,
            "echo \"{}:{}\" >&2\n{filled}",
            page.path, block.line
        )
        .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("stdout");
    let complaints = folder.path().join("stderr");
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_verifyd")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    // Files and not pipes: a daemon that a page leaves behind would keep a pipe open.
    let mut shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&work)
        .env_clear()
        .env("PATH", path)
        .env("HOME", &work)
        .env(
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN",
            &simulator.address,
        )
        .env(
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH",
            &simulator.address,
        )
        .env(
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__PORTAL",
            "https://entra.microsoft.com",
        )
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
    let read = |file: &Path| std::fs::read(file).unwrap_or_default();
    let status = status.unwrap_or_else(|| {
        let _ = shell.wait();
        panic!(
            "{} takes too long:\n{}",
            page.path,
            String::from_utf8_lossy(&read(&complaints))
        );
    });
    Output {
        status,
        stdout: read(&printed),
        stderr: read(&complaints),
    }
}

/// Asserts that every command succeeds and that all of this is printed.
fn assert_works(page: &Page, simulator: &Simulator, wanted: &[&str]) {
    let output = run(page, simulator);
    let printed = String::from_utf8_lossy(&output.stdout);
    // The last line of a page that was begun is the block that failed.
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}:\n{printed}\n{complaints}",
        output.status
    );
    for wanted in wanted {
        assert!(
            printed.contains(wanted),
            "{} prints no {wanted}:\n{printed}\n{complaints}",
            page.path
        );
    }
}

#[test]
fn the_tour_of_the_readme_works() {
    let simulator = Simulator::start();
    let page = Page {
        path: "README.md",
        // The tenant is one of the simulator already.
        values: vec![
            (
                "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN",
                simulator.address.clone(),
            ),
            (
                "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH",
                simulator.address.clone(),
            ),
            ("VERIFYD__HTTP__LISTEN", free_address()),
        ],
    };
    assert_works(
        &page,
        &simulator,
        &["SUCCEEDED", "permission_not_consented", "\"outcome\""],
    );
}

#[test]
fn the_tutorial_works() {
    let simulator = Simulator::start();
    let page = Page {
        path: "docs/tutorial.md",
        values: vec![
            ("ENTRA_TENANT_ID", HEALTHY_TENANT.to_owned()),
            ("ENTRA_CLIENT_ID", CLIENT.to_owned()),
            ("ENTRA_CLIENT_SECRET", SECRET.to_owned()),
            ("ENTRA_CLOUD", "simulated".to_owned()),
            ("VERIFYD__HTTP__LISTEN", free_address()),
        ],
    };
    assert_works(&page, &simulator, &["SUCCEEDED", "The connection works"]);
}

#[test]
fn blocks_are_found_and_filled_in() {
    let page = "# A\n\n```sh\nexport B=1   # yours\nexport C=2\n```\n\n```bash\nno\n```\n\n- d\n\n  ```sh\n  e\n  ```\n";
    let found = blocks(page);
    let lines: Vec<usize> = found.iter().map(|block| block.line).collect();
    assert_eq!(lines, [3, 14]);
    assert_eq!(found[1].text, "e\n");
    let filled = filled_in(&found[0].text, &[("B", "x y".to_owned())]);
    assert_eq!(filled, "export B='x y'\nexport C=2\n");
}
