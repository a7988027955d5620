//! Holds the walls of `docs/explanation/architecture.md`: which folder of `src` may know which, where each
//! outside library ends, and how long a file may become.
//!
//! The sources are read as tokens (comments and literals left out), and every path in them, in `use`
//! trees and elsewhere, is resolved to the folder or crate that it begins in.

mod rules;
mod source;

use rules::{Violation, violations};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, as a path relative to the project, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_sources_keep_to_their_layers() {
    let files = rust_files(&root().join("src"));
    for layer in ["domain", "ports", "engine", "store", "queue", "provider"] {
        assert!(
            files
                .iter()
                .any(|file| file.starts_with(Path::new("src").join(layer))),
            "src/{layer} was not found: this test would see nothing"
        );
    }
    let found: Vec<Violation> = files
        .iter()
        .flat_map(|file| violations(file, &std::fs::read_to_string(root().join(file)).unwrap()))
        .collect();
    assert!(
        found.is_empty(),
        "{} violation(s) of the layering (rules: tests/layering/rules.rs):\n{}",
        found.len(),
        found
            .iter()
            .map(|one| format!("  {one}\n"))
            .collect::<String>()
    );
}

#[test]
fn files_stay_short_and_are_named_after_ideas() {
    let files = rust_files(&root().join("src"));
    let mut complaints = Vec::new();
    for file in &files {
        let lines = std::fs::read_to_string(root().join(file))
            .unwrap()
            .lines()
            .count();
        complaints.extend(rules::length_complaint(file, lines));
        complaints.extend(rules::name_complaint(file));
    }
    for (allowed, _) in rules::LONG_FILES {
        if !files.iter().any(|file| file == Path::new(allowed)) {
            complaints.push(format!(
                "{allowed}: allowed to be long, but it is not there"
            ));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What the rules say about `source` as the file `path`, as `line: what`.
fn said(path: &str, source: &str) -> Vec<String> {
    violations(Path::new(path), source)
        .into_iter()
        .map(|one| format!("{}: {}", one.line, one.what))
        .collect()
}

#[track_caller]
fn refused(path: &str, source: &str, words: &str) {
    let said = said(path, source);
    assert!(
        said.iter().any(|one| one.contains(words)),
        "expected a violation with {words:?} in {path}, got {said:?} for:\n{source}"
    );
}

#[track_caller]
fn accepted(path: &str, source: &str) {
    assert_eq!(
        said(path, source),
        Vec::<String>::new(),
        "in {path}:\n{source}"
    );
}

#[test]
fn an_import_against_the_direction_is_caught_however_it_is_written() {
    refused(
        "src/domain/run.rs",
        "use crate::store::Store;",
        "1: domain may not use store",
    );
    refused(
        "src/ports/queue.rs",
        "\nuse crate::engine;",
        "2: ports may not use engine",
    );
    refused(
        "src/engine/mod.rs",
        "use crate::{domain::run::Run, ports::store, http::page};",
        "engine may not use http",
    );
    refused(
        "src/store/mod.rs",
        "fn f() { let _ = crate::queue::redis::connect(); }",
        "store may not use queue",
    );
    refused(
        "src/queue/mod.rs",
        "pub use crate::store::A as B;",
        "queue may not use store",
    );
    refused(
        "src/store/postgres/claim.rs",
        "use super::super::super::queue::Q;",
        "may not use queue",
    );
    refused(
        "src/provider/mod.rs",
        "use super::credentials::Vault;",
        "may not use credentials",
    );
    refused(
        "src/credentials/mod.rs",
        "use super::*;",
        "the crate's root",
    );
    refused(
        "src/engine/a.rs",
        "mod inner { use super::super::super::cli::x; }",
        "may not use cli",
    );
    refused(
        "src/domain/a.rs",
        "struct A<T: crate::telemetry::T>(T);",
        "may not use telemetry",
    );
    refused(
        "src/simulator/mod.rs",
        "use crate::ports::store::Store;",
        "may not use ports::store",
    );
    refused(
        "src/store/mod.rs",
        "#[cfg(test)] mod tests { use crate::queue::Q; }",
        "may not use queue",
    );
    refused("src/shelf/mod.rs", "pub struct A;", "shelf is in no layer");
}

#[test]
fn a_library_outside_of_its_folder_is_caught() {
    refused(
        "src/engine/mod.rs",
        "use sqlx::PgPool;",
        "sqlx belongs in store",
    );
    refused(
        "src/ports/store.rs",
        "#[derive(sqlx::FromRow)] struct Row;",
        "sqlx belongs in store",
    );
    refused(
        "src/http/mod.rs",
        "fn f(c: redis::Client) {}",
        "redis belongs in queue",
    );
    refused(
        "src/store/mod.rs",
        "use ::redis::Client;",
        "redis belongs in queue",
    );
    refused(
        "src/app/mod.rs",
        "use {apalis_core::task::Task, std::fmt};",
        "apalis_core belongs in queue",
    );
    refused(
        "src/queue/mod.rs",
        "use axum as web;",
        "axum belongs in http, simulator",
    );
    refused(
        "src/simulator/mod.rs",
        "extern crate h2;",
        "h2 belongs in outbound",
    );
    refused(
        "src/domain/run.rs",
        "use std::{fs, fmt};",
        "domain may not use std::fs",
    );
    refused(
        "src/domain/run.rs",
        "async fn f() { tokio::task::yield_now().await }",
        "may not use tokio",
    );
}

#[test]
fn what_is_allowed_passes() {
    accepted(
        "src/domain/run.rs",
        "use crate::domain::ids::RunId; use super::reason; use std::fmt;",
    );
    accepted(
        "src/store/mod.rs",
        "use crate::{domain::run::Run, ports::store::RunStore}; use sqlx::Row;",
    );
    accepted(
        "src/queue/redis/mod.rs",
        "use redis::Client; use super::pulse; use crate::ports::clock::Clock;",
    );
    accepted(
        "src/simulator/mod.rs",
        "use crate::ports::clock::Clock; use axum::Router;",
    );
    accepted(
        "src/app/mod.rs",
        "use crate::queue::redis; use crate::store; fn f() { redis::connect() }",
    );
    accepted(
        "src/app/mod.rs",
        "use crate::queue::{redis::RedisQueue, in_process};",
    );
    accepted(
        "src/queue/mod.rs",
        "mod redis; pub use self::redis::RedisQueue; fn f() { redis::g() }",
    );
    accepted(
        "src/cli/mod.rs",
        "fn f() { a.redis::<T>(); let x = crate::store::sqlx; }",
    );
    accepted(
        "src/provider/mod.rs",
        "#[cfg(test)] mod tests { use super::*; use axum::Router; }",
    );
    accepted("src/provider/tests.rs", "use axum::Router;");
    // Words in comments and literals are no dependencies; lifetimes are not characters.
    accepted(
        "src/domain/a.rs",
        r##"
        /// See [`crate::store`]. /* crate::queue */
        /* outer /* use crate::http; */ use crate::cli; */
        fn f<'a>(x: &'a str) -> impl Iterator<Item = char> + use<'a> {
            let _ = ("use crate::store;\" crate::http", r#"sqlx::query(" ")"#, b"axum::x", '"', '\'');
            x.chars()
        }
        "##,
    );
    // What follows a literal is still read.
    refused(
        "src/domain/a.rs",
        "const Q: char = '\"'; use crate::store::S;",
        "may not use store",
    );
    refused(
        "src/domain/a.rs",
        "const Q: &str = r#\"a\"b\"#; use crate::store::S;",
        "may not use store",
    );
}

#[test]
fn long_files_and_empty_names_are_caught() {
    let file = Path::new("src/store/rows.rs");
    assert!(rules::length_complaint(file, 600).is_none());
    assert!(rules::length_complaint(file, 601).is_some());
    assert!(rules::length_complaint(file, 1_001).is_some());
    assert!(rules::name_complaint(Path::new("src/store/rows.rs")).is_none());
    for name in [
        "src/util.rs",
        "src/store/helpers.rs",
        "src/common/mod.rs",
        "src/queue/misc/a.rs",
    ] {
        assert!(rules::name_complaint(Path::new(name)).is_some(), "{name}");
    }
    refused("src/store/mod.rs", "mod utils { }", "says nothing");
}

#[test]
fn files_are_where_their_modules_are_declared() {
    // In two parts, so that this line is none of those.
    let attribute = concat!("#[", "path");
    for folder in ["src", "tests", "crates", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let text = std::fs::read_to_string(root().join(&file)).unwrap();
            let found = text
                .lines()
                .find(|line| line.trim_start().starts_with(attribute));
            assert_eq!(found, None, "in {}", file.display());
        }
    }
}
