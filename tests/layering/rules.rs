//! The rules, and their application to one file.

use crate::source::{Mention, Place, read};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a layer may use of this crate: paths by their beginning. `None`: everything. A surface is
/// free, and held by the fact that no layer below names it.
const LAYERS: &[(&str, Option<&[&str]>)] = &[
    ("domain", Some(&["domain"])),
    ("ports", Some(&["domain", "ports"])),
    ("engine", Some(&["domain", "ports", "engine"])),
    (
        "operations",
        Some(&["domain", "ports", "engine::settings", "operations"]),
    ),
    ("store", Some(&["domain", "ports", "store"])),
    ("queue", Some(&["domain", "ports", "queue"])),
    (
        "provider",
        Some(&["domain", "ports", "outbound", "files", "provider"]),
    ),
    ("notify", Some(&["domain", "ports", "outbound", "notify"])),
    // What calls to the outside have in common; it knows nothing of verifyd.
    ("outbound", Some(&["outbound"])),
    (
        "credentials",
        Some(&["domain", "ports", "files", "credentials"]),
    ),
    // How files come in; it knows nothing of verifyd.
    ("files", Some(&["files"])),
    // It imitates the world outside: it must not share code with what it is there to test.
    ("simulator", Some(&["domain", "ports::clock", "simulator"])),
    ("view", Some(&["domain", "view"])),
    ("config", None),
    ("telemetry", None),
    ("http", None),
    ("cli", None),
    // The surface for applications in Rust.
    ("producer", None),
    ("app", None),
];

/// Where an outside library may be named. Tests inside `src` may use what they like.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("apalis", &["queue"]),
    ("apalis_core", &["queue"]),
    ("apalis_redis", &["queue"]),
    ("redis", &["queue"]),
    ("axum", &["http", "simulator"]),
    ("h2", &["outbound"]),
    ("tokio_rustls", &["outbound"]),
    ("clap", &["cli", "config"]),
    ("comfy_table", &["cli"]),
    ("indicatif", &["cli"]),
];

/// The domain computes; it reads and waits for nothing.
const NOT_IN_DOMAIN: &[&str] = &[
    "tokio",
    "std::env",
    "std::fs",
    "std::net",
    "std::process::Command",
    "std::thread",
];

/// Lines after which a file has to be split by idea, unless it is in [`LONG_FILES`].
const LINES: usize = 600;
/// Lines that no file may have.
const LINES_AT_MOST: usize = 1_000;
/// Files that may be longer than [`LINES`], each with the reason.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// Names that fit everything and therefore say nothing.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "misc", "shared", "stuff", "util", "utils",
];

/// A line that breaks a rule.
#[derive(Debug)]
pub struct Violation {
    pub file: PathBuf,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Everything in `source`, the text of `file` (`src/…`), that breaks a rule of layers or libraries.
pub fn violations(file: &Path, source: &str) -> Vec<Violation> {
    let module = module_path(file);
    // `lib.rs` joins the modules, `main.rs` only calls the library: they are above the layers.
    let Some(layer) = module.first().cloned() else {
        return Vec::new();
    };
    let violation = |line: usize, what: String| Violation {
        file: file.to_path_buf(),
        line,
        what,
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        let what = format!("{layer} is in no layer: give it a place in tests/layering/rules.rs");
        return vec![violation(1, what)];
    };
    let all_tests = file.iter().any(|part| {
        let part = part.to_string_lossy();
        let stem = part.strip_suffix(".rs").unwrap_or(&part);
        stem == "tests" || stem.ends_with("_tests")
    });

    let text = read(source, &module);
    let mut found: Vec<Violation> = text
        .inline_modules
        .iter()
        .filter(|(_, name)| EMPTY_NAMES.contains(&name.as_str()))
        .map(|(line, name)| violation(*line, format!("the module name {name} says nothing")))
        .collect();
    for Mention { line, place, test } in text.mentions {
        let what = match place {
            Place::Crate(path) => (*allowed).and_then(|allowed| inside(&layer, allowed, &path)),
            Place::Outside(_) if test || all_tests => None,
            Place::Outside(path) => outside(&layer, &path),
        };
        found.extend(what.map(|what| violation(line, what)));
    }
    found
}

fn inside(layer: &str, allowed: &[&str], path: &[String]) -> Option<String> {
    if path.first().is_none_or(|first| first == "*") {
        return Some(format!("{layer} may not use the crate's root as a whole"));
    }
    if allowed.iter().any(|allowed| begins_with(path, allowed)) {
        return None;
    }
    // As much of the path as tells it apart from what is allowed.
    let depth = allowed
        .iter()
        .filter(|one| one.split("::").next() == path.first().map(String::as_str))
        .map(|one| one.split("::").count())
        .max()
        .unwrap_or(1);
    let named = path
        .iter()
        .take(depth)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("::");
    Some(format!("{layer} may not use {named}"))
}

fn outside(layer: &str, path: &[String]) -> Option<String> {
    if layer == "domain"
        && let Some(banned) = NOT_IN_DOMAIN
            .iter()
            .find(|banned| begins_with(path, banned))
    {
        return Some(format!("domain may not use {banned}"));
    }
    let (library, homes) = LIBRARIES
        .iter()
        .find(|(library, _)| begins_with(path, library))?;
    if homes.contains(&layer) {
        return None;
    }
    Some(format!(
        "{library} belongs in {}, not in {layer}",
        homes.join(", ")
    ))
}

fn begins_with(path: &[String], beginning: &str) -> bool {
    let mut segments = path.iter();
    beginning
        .split("::")
        .all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

/// `src/store/postgres/claim.rs` is `store::postgres::claim`; a folder's `mod.rs` is the folder.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file
        .with_extension("")
        .iter()
        .skip(1)
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let is_root = path.len() == 1 && matches!(path[0].as_str(), "lib" | "main");
    if is_root || path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// Says so when `file` is too long.
pub fn length_complaint(file: &Path, lines: usize) -> Option<String> {
    let allowed = LONG_FILES.iter().any(|(name, _)| file == Path::new(name));
    let file = file.display();
    if lines > LINES_AT_MOST {
        Some(format!(
            "{file}: {lines} lines, and no file may have more than {LINES_AT_MOST}"
        ))
    } else if lines > LINES && !allowed {
        Some(format!(
            "{file}: {lines} lines; split it by idea (more than {LINES} need a reason)"
        ))
    } else if lines <= LINES && allowed {
        Some(format!("{file}: no longer long, take it out of LONG_FILES"))
    } else {
        None
    }
}

/// Says so when `file`, or a folder on its way, has a name that says nothing.
pub fn name_complaint(file: &Path) -> Option<String> {
    let path = module_path(file);
    let name = path
        .iter()
        .find(|name| EMPTY_NAMES.contains(&name.as_str()))?;
    Some(format!("{}: the name {name} says nothing", file.display()))
}
