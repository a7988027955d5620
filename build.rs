//! Finds out what `src/telemetry/build_info.rs` says of a build.
//!
//! Nothing depends on the time or on the machine: the same commit, compiler, profile and features give the same
//! program.

use std::path::Path;
use std::process::Command;

/// Names the commit where the sources come without their repository, for example in a container.
const COMMIT: &str = "VERIFYD_BUILD_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let profile = variable("PROFILE");
    // In a debug build every commit would compile everything again.
    let is_release = profile.as_deref() == Some("release");
    let commit = variable(COMMIT).or_else(|| is_release.then(head).flatten());
    let compiler = variable("RUSTC").and_then(|rustc| printed(&rustc, &["--version"]));
    // "rustc 1.94.0 (4a4ef493e 2026-03-02)"
    let compiler = compiler.and_then(|version| version.split(' ').nth(1).map(str::to_owned));
    for (name, value) in [
        ("COMMIT", commit),
        ("RUSTC", compiler),
        ("PROFILE", profile),
    ] {
        let value = value.unwrap_or_else(|| "unknown".to_owned());
        println!("cargo::rustc-env=VERIFYD_{name}={value}");
    }
}

/// Returns the commit that is checked out. None: these sources are no repository of their own.
fn head() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // The log of HEAD grows with every commit and every checkout. A path that does not exist would run this
    // program in every build.
    let log = ["logs/HEAD", "HEAD"].into_iter().find_map(|name| {
        printed("git", &["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists())
    })?;
    println!("cargo::rerun-if-changed={log}");
    printed("git", &["rev-parse", "--short=12", "HEAD"])
}

/// Returns what a program prints, if it succeeds and prints anything.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    given(&text).filter(|_| output.status.success())
}

fn variable(name: &str) -> Option<String> {
    given(&std::env::var(name).ok()?)
}

fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
