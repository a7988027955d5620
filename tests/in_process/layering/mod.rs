//! Tests the layers of `docs/explanation/architecture.md`: which folder of `src` may import which, where
//! each library belongs, and how long a file may become. What crates hold needs no test: the simulator
//! cannot import verifyd.

use crate::rust_files;
use std::path::Path;

/// What each folder may import from this crate, as beginnings of paths; of a folder within one that is listed, too,
/// its own line counts. A folder that is not in this list joins others and may import everything.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &["domain"]),
    ("engine", &["domain", "ports"]),
    ("operations", &["domain", "ports", "engine::settings"]),
    ("store", &["domain", "ports", "files"]),
    ("queue", &["domain", "ports", "files"]),
    ("provider", &["domain", "ports", "outbound", "files"]),
    ("notify", &["domain", "ports"]),
    ("notify::webhook", &["domain", "ports", "outbound"]),
    ("credentials", &["domain", "ports", "files"]),
    ("outbound", &["domain", "files"]),
    ("files", &[]),
    ("view", &["domain"]),
];

/// The folders that join others.
const COMPOSITION: &[&str] = &[
    "app",
    "cli",
    "config",
    "debug",
    "http",
    "producer",
    "telemetry",
];

/// The only folders that may name a library. Tests inside `src` may use what they like. Nothing starts a process: it
/// would inherit secrets, and the socket of the service manager.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("apalis", &["queue"]),
    ("apalis_core", &["queue"]),
    ("apalis_redis", &["queue"]),
    ("redis", &["queue"]),
    ("axum", &["http"]),
    ("h2", &["outbound"]),
    ("hyper", &["http", "outbound"]),
    ("hyper_util", &["http", "outbound"]),
    ("tokio_rustls", &["outbound"]),
    ("clap", &["cli", "config"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("comfy_table", &["cli"]),
    ("indicatif", &["cli"]),
    ("sd_notify", &["cli"]),
    ("std::process::Command", &[]),
    ("tokio::process", &[]),
    ("flate2", &["cli"]),
    ("opentelemetry", &["ports", "telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("tar", &["cli"]),
    ("tonic", &["telemetry"]),
];

/// What the domain may not use, since it only computes.
const NOT_IN_DOMAIN: &[&str] = &["tokio", "std::env", "std::fs", "std::net", "std::thread"];

const RUST_FOLDERS: [&str; 4] = ["src", "tests", "crates", "benches"];

const LINES_AT_MOST: usize = 600;
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "misc", "shared", "stuff", "util", "utils",
];

/// The modules of a file below a folder: `["store", "postgres", "claim"]`.
fn modules(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

fn begins_with(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What is wrong with a path in code of a module, if anything.
fn complaint(modules: &[String], path: &str, is_test: bool) -> Option<String> {
    let (layer, module, depth) = (modules[0].as_str(), modules.join("::"), modules.len());
    let supers = path.split("::").take_while(|part| *part == "super").count();
    let inside = match path.strip_prefix("crate::") {
        Some(inside) => Some(inside),
        // As many steps up as there are modules lead to the crate's root, where the layers are.
        None if supers >= depth => path.get(supers * "super::".len()..).filter(|rest| {
            LAYERS.iter().any(|(name, _)| begins_with(rest, name))
                || COMPOSITION.iter().any(|name| begins_with(rest, name))
        }),
        None => None,
    };
    let allowed = LAYERS
        .iter()
        .filter(|(name, _)| begins_with(&module, name))
        .max_by_key(|(name, _)| name.len());
    if let (Some(inside), Some((_, allowed))) = (inside, allowed) {
        let fits = begins_with(inside, layer) || allowed.iter().any(|one| begins_with(inside, one));
        return (!fits).then(|| format!("{layer} may not use `{inside}`"));
    }
    if is_test {
        return None;
    }
    if layer == "domain" && NOT_IN_DOMAIN.iter().any(|one| begins_with(path, one)) {
        return Some(format!("domain may not use {path}"));
    }
    let (library, homes) = LIBRARIES.iter().find(|(name, _)| begins_with(path, name))?;
    (!homes.contains(&layer)).then(|| format!("{library} belongs only in {homes:?}"))
}

/// Everything in `source`, the text of `file` (relative to `src`), that breaks a rule: line and reason.
fn violations(file: &Path, source: &str) -> Vec<(usize, String)> {
    let modules = modules(file);
    let mut is_test = modules.iter().any(|name| name.ends_with("tests"));
    let mut found = Vec::new();
    let lines: Vec<&str> = source.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        // Tests inside a file are its last module.
        is_test |= *line == "#[cfg(test)]"
            && lines
                .get(index + 1)
                .is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        let code = line.split("//").next().unwrap_or_default();
        let imports = code.trim_start().starts_with("use ") || code.starts_with("pub use ");
        let paths = code
            .split(|sign: char| !(sign.is_alphanumeric() || sign == '_' || sign == ':'))
            .map(|path| path.trim_start_matches("::"))
            .filter(|path| path.contains("::") || imports);
        found.extend(
            paths.filter_map(|path| {
                complaint(&modules, path, is_test).map(|what| (index + 1, what))
            }),
        );
    }
    found
}

#[test]
fn the_sources_keep_to_their_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut complaints = Vec::new();
    for path in rust_files(&src) {
        let source = std::fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(&src).unwrap();
        let modules = modules(file);
        let first = modules[0].as_str();
        if first != "lib" && first != "main" {
            let known =
                LAYERS.iter().any(|(name, _)| *name == first) || COMPOSITION.contains(&first);
            if !known {
                complaints.push(format!("{}: in no layer", file.display()));
            }
            let found = violations(file, &source);
            complaints.extend(
                found
                    .iter()
                    .map(|(line, what)| format!("{}:{line}: {what}", file.display())),
            );
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_stay_short_and_are_named_after_something() {
    let mut complaints = Vec::new();
    for folder in RUST_FOLDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for path in rust_files(&folder) {
            let source = std::fs::read_to_string(&path).unwrap();
            if source.lines().count() > LINES_AT_MOST {
                complaints.push(format!(
                    "{}: longer than {LINES_AT_MOST} lines",
                    path.display()
                ));
            }
            let file = path.strip_prefix(&folder).unwrap();
            let says_nothing = |name: &String| EMPTY_NAMES.contains(&name.as_str());
            if modules(file).iter().any(says_nothing) {
                complaints.push(format!("{}: a name that says nothing", path.display()));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Lines of the engine without a limit, besides that of each run: of a process, of its contact with a server, of the
/// schema, and one for all invalid runs of ten minutes.
const UNLIMITED_LINES: [&str; 10] = [
    "a part of the worker ended; stopping",
    "heartbeat failed; retrying more often",
    "heartbeat succeeded again",
    "invalid runs; `verifyd doctor` names them",
    "run completed",
    "the database's schema does not fit any more; claiming no runs until it does",
    "the database's schema fits again",
    "the grace period is over; releasing what is in flight",
    "the queue is available again",
    "the queue is unavailable; taking runs from the database",
];

/// As `ports/log_throttle.rs` says: a producer could fill the log with a line for each run, or for each sweep.
#[test]
fn a_run_has_one_line_of_the_log() {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let mut lines = Vec::new();
    for path in rust_files(&engine) {
        let source = std::fs::read_to_string(&path).unwrap();
        for call in ["tracing::info!(", "tracing::warn!(", "tracing::error!("] {
            // The first text of a call is its message.
            let called = source.split(call).skip(1);
            lines.extend(called.map(|rest| rest.split('"').nth(1).unwrap().to_owned()));
        }
    }
    lines.sort_unstable();
    assert_eq!(lines, UNLIMITED_LINES);
}

#[test]
fn the_rules_refuse_what_they_should() {
    let said = |file: &str, source: &str| violations(Path::new(file), source);
    for (file, source) in [
        ("domain/run.rs", "use crate::store::Store;"),
        ("engine/mod.rs", "use crate::{domain::Run, http::page};"),
        (
            "store/mod.rs",
            "    let _ = crate::queue::redis::connect();",
        ),
        (
            "store/postgres/claim.rs",
            "use super::super::super::queue::Q;",
        ),
        ("provider/mod.rs", "use super::credentials::Vault;"),
        ("operations/mod.rs", "use crate::engine::pipeline;"),
        (
            "store/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::queue::Q;",
        ),
        ("engine/mod.rs", "use sqlx::PgPool;"),
        ("ports/store.rs", "#[derive(sqlx::FromRow)]"),
        ("queue/mod.rs", "use axum as web;"),
        ("notify/sender.rs", "use hyper::client::conn::http1;"),
        ("notify/sender.rs", "use crate::outbound::Client;"),
        ("domain/run.rs", "    tokio::task::yield_now().await"),
        ("cli/serve.rs", "use std::process::Command;"),
    ] {
        assert!(!said(file, source).is_empty(), "{file}: {source}");
    }
    for (file, source) in [
        (
            "domain/run.rs",
            "/// See [`crate::store`].\nuse crate::domain::ids; use super::reason;",
        ),
        (
            "store/mod.rs",
            "use crate::ports::store::RunStore; use sqlx::Row;",
        ),
        (
            "operations/mod.rs",
            "use crate::engine::settings::WorkerSettings;",
        ),
        (
            "notify/webhook/mod.rs",
            "use crate::notify::WebhookSettings; use crate::outbound::Outbound;",
        ),
        (
            "app/mod.rs",
            "use crate::queue::redis::RedisQueue; use crate::store;",
        ),
        (
            "provider/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use super::*; use axum::Router;",
        ),
    ] {
        assert_eq!(said(file, source), [], "{file}: {source}");
    }
}

#[test]
fn files_are_where_their_modules_are_declared() {
    // In two parts, so that this line is none of those.
    let attribute = concat!("#[", "path");
    for folder in RUST_FOLDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for file in rust_files(&folder) {
            let text = std::fs::read_to_string(&file).unwrap();
            let found = text
                .lines()
                .find(|line| line.trim_start().starts_with(attribute));
            assert_eq!(found, None, "in {}", file.display());
        }
    }
}
