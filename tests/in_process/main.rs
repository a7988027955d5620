//! Tests that need no server, no browser and nothing installed besides Rust.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod checks;
mod cli;
mod documents;
mod fuzz_corpus;
mod generated;
mod layering;
mod microsoft;
mod reports;
mod verdicts;

use std::path::{Path, PathBuf};

/// Folders without files of the project.
const SKIPPED: &[&str] = &[".git", "target", "node_modules"];

/// All files below `folder` that are wanted, sorted.
fn files(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                let name = entry.file_name();
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    open.push(path);
                }
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file below `folder`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder, |path| {
        path.extension().is_some_and(|end| end == "rs")
    })
}

/// The variables with which commands take the simulator at this address for Microsoft's services.
fn simulated_cloud(address: &str) -> [(String, &str); 3] {
    let of = |name| format!("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__{name}");
    [
        (of("LOGIN"), address),
        (of("GRAPH"), address),
        (of("PORTAL"), "https://entra.microsoft.com"),
    ]
}
