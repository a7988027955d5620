//! The crates that are compiled for the container image, with their licences and what their own code may do.

use super::{assert_current, assert_part_current};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATES: &str = "docs/reference/dependencies.csv";
const PAGE: &str = "docs/reference/dependencies.md";
const HEADINGS: &str = "crate,version,licence,part,unsafe\n";
/// The other processor that deny.toml names has no further crates.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Kinds of targets that other crates cannot use.
const NO_LIBRARY: &[&str] = &["bin", "test", "example", "bench", "custom-build"];

/// Name and version of a crate.
type Package = (String, String);

/// What cargo prints for these arguments, with the lock file as it is.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--color", "never"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The crates that these kinds of dependencies lead to, with their licences.
fn crates(edges: &str) -> BTreeMap<Package, String> {
    let printed = cargo(&[
        "tree",
        "--package",
        "verifyd",
        "--no-default-features",
        "--edges",
        edges,
        "--target",
        TARGET,
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]);
    let mut crates = BTreeMap::new();
    for line in printed.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|').unwrap();
        let mut words = package.split(' ');
        let name = words.next().unwrap();
        let version = words.next().and_then(|word| word.strip_prefix('v'));
        if name != "verifyd" {
            let package = (name.to_owned(), version.unwrap().to_owned());
            crates.insert(package, licence.to_owned());
        }
    }
    crates
}

/// The root file of each crate's library.
fn library_files() -> BTreeMap<Package, PathBuf> {
    let printed = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        TARGET,
    ]);
    let metadata: Value = serde_json::from_str(&printed).unwrap();
    let mut files = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let text = |member: &str| package[member].as_str().unwrap().to_owned();
        let mut targets = package["targets"].as_array().unwrap().iter();
        let library = targets.find(|target| {
            let mut kinds = target["kind"].as_array().unwrap().iter();
            !kinds.any(|kind| NO_LIBRARY.contains(&kind.as_str().unwrap()))
        });
        if let Some(library) = library {
            let file = library["src_path"].as_str().unwrap();
            files.insert((text("name"), text("version")), PathBuf::from(file));
        }
    }
    files
}

/// A file without what follows `//` in its lines.
fn code(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(|line| line.split("//").next());
    lines.flatten().flat_map(|line| [line, "\n"]).collect()
}

/// `forbidden` where the compiler refuses `unsafe` in the whole library, else how often the keyword is there.
fn unsafe_code(library: &Path) -> String {
    let root = code(library);
    let mut forbidden = root
        .split("#![forbid(")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    if forbidden.any(|lints| lints.contains("unsafe_code")) {
        return "forbidden".to_owned();
    }
    let mut found = 0;
    let mut open = vec![library.parent().unwrap().to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let code = code(&path);
                let words = code.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                found += words.filter(|word| *word == "unsafe").count();
            }
        }
    }
    found.to_string()
}

/// The column `unsafe` of the file. What was published never changes, and reading the sources of all crates takes
/// long, so only crates that are new in the file are read.
fn known_unsafe_code() -> BTreeMap<Package, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(CRATES);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let rows = text.lines().skip(1).filter_map(|row| {
        let cells: Vec<&str> = row.split(',').collect();
        let [name, version, _, _, unsafe_code] = cells[..] else {
            return None;
        };
        let package = (name.to_owned(), version.to_owned());
        Some((package, unsafe_code.to_owned()))
    });
    rows.collect()
}

/// How many crates of a part forbid `unsafe`, do not use it, and use it.
#[derive(Default)]
struct Counts {
    forbidden: usize,
    without: usize,
    with: usize,
}

impl Counts {
    fn add(&mut self, unsafe_code: &str) {
        match unsafe_code {
            "forbidden" => self.forbidden += 1,
            "0" => self.without += 1,
            _ => self.with += 1,
        }
    }

    fn row(&self, part: &str) -> String {
        let Self {
            forbidden,
            without,
            with,
        } = self;
        let all = forbidden + without + with;
        format!("| `{part}` | {all} | {forbidden} | {without} | {with} |\n")
    }
}

#[test]
fn the_list_of_crates_is_current() {
    let in_program = crates("normal,no-proc-macro");
    let known = known_unsafe_code();
    let mut files: Option<BTreeMap<Package, PathBuf>> = None;
    let mut list = String::from(HEADINGS);
    let (mut program, mut build) = (Counts::default(), Counts::default());
    for (package, licence) in crates("normal,build") {
        let unsafe_code = match known.get(&package) {
            Some(known) => known.clone(),
            None => unsafe_code(&files.get_or_insert_with(library_files)[&package]),
        };
        let (part, counts) = match in_program.contains_key(&package) {
            true => ("program", &mut program),
            false => ("build", &mut build),
        };
        counts.add(&unsafe_code);
        let (name, version) = package;
        let _ = writeln!(list, "{name},{version},{licence},{part},{unsafe_code}");
    }
    assert_current(CRATES, &list);

    let mut table = String::from(
        "| part | crates | forbid `unsafe` | have none | have some |\n|---|---|---|---|---|\n",
    );
    table.push_str(&program.row("program"));
    table.push_str(&build.row("build"));
    assert_part_current(PAGE, "Cargo.lock", table.trim_end());
}

#[test]
fn the_keyword_unsafe_is_counted_in_code() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("lib.rs");
    let module = folder.path().join("below/module.rs");
    std::fs::create_dir(module.parent().unwrap()).unwrap();
    for (root, below, wanted) in [
        ("#![forbid(\n    unsafe_code,\n)]", "", "forbidden"),
        ("// #![forbid(unsafe_code)]", "/// unsafe\nfn f() {}", "0"),
        ("#![deny(unsafe_code)]", "unsafe fn f() { unsafe{} }", "2"),
    ] {
        std::fs::write(&library, root).unwrap();
        std::fs::write(&module, below).unwrap();
        assert_eq!(unsafe_code(&library), wanted, "{root}");
    }
}
