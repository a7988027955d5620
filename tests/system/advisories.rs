//! `scripts/advisories`: a copy of the advisory database counts by its last commit.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn write_program(file: &Path, script: &str) {
    std::fs::write(file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

/// Runs the script where the database cannot be fetched, with a copy whose last commit is so many days old, if any, so
/// many days after that of the recorded check, and with a cargo-deny that ends with this code. Returns its exit code and
/// what it said.
fn advisories(days: Option<u64>, recorded_days: u64, finds: i32) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let wanted = std::fs::read_to_string(root().join("scripts/cargo-deny")).unwrap();
    let version = wanted
        .lines()
        .find_map(|line| line.strip_prefix("readonly version="))
        .unwrap();
    let deny = format!(
        "case \"$*\" in --version) echo cargo-deny {version}.0 ;; *fetch*) exit 1 ;; *) exit {finds} ;; esac"
    );
    write_program(&path.join("cargo-deny"), &deny);
    let mut git = String::from("case \"$*\" in ");
    if let Some(days) = days {
        std::fs::create_dir_all(path.join("advisory-dbs/advisory-db-1/.git")).unwrap();
        // The script looks at the clock before.
        let seconds = days * 24 * 60 * 60 + 3600;
        let _ = write!(
            git,
            "*%ct*) echo $(($(date +%s) - {seconds})) ;; *%cs*) echo 2026-11-30 ;; "
        );
    }
    git.push_str("esac");
    write_program(&path.join("git"), &git);
    let seconds = recorded_days * 24 * 60 * 60 + 3600;
    let date = format!(
        "case \"$*\" in *-d*) echo $(($(/bin/date +%s) - {seconds})) ;; *) exec /bin/date \"$@\" ;; esac"
    );
    write_program(&path.join("date"), &date);
    let others = std::env::var("PATH").unwrap();
    let output = Command::new(root().join("scripts/advisories"))
        .env("CARGO_HOME", path)
        .env("PATH", format!("{}:{others}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_copy_of_the_advisories_counts_by_its_last_commit() {
    let (code, said) = advisories(Some(30), 31, 0);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = advisories(Some(31), 0, 0);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("older than 30 days"), "{said}");
    let (code, said) = advisories(Some(0), 0, 4);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("older than"), "{said}");
}

#[test]
fn without_a_copy_of_the_advisories_the_last_check_is_named() {
    let (code, said) = advisories(None, 30, 0);
    assert_eq!(code, Some(2), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
    let record = std::fs::read_to_string(root().join(".ci/advisories-checked")).unwrap();
    let dates: Vec<&str> = record
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.1))
        .collect();
    assert_eq!(dates.len(), 2, "{record}");
    for date in dates {
        assert!(said.contains(date), "{date}: {said}");
    }
    let (code, said) = advisories(None, 31, 0);
    assert_eq!(code, Some(2), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("WARNING") && last.contains("31 days old"),
        "{said}"
    );
}
