//! The programs of docs/guides/enqueue.md: its snippets, and the files of `examples/enqueue` that it leads to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../../docs/guides/enqueue.md");
const MARK: &str = "<!-- tested: ";
const FOLDER: &str = "examples/enqueue";

/// A fenced block of the page, or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    pub language: String,
    pub text: String,
    /// A file is run where it stands: interpreters look for modules beside it.
    pub file: Option<PathBuf>,
    /// Whether it is given `REDIS_URL`.
    pub sends_hint: bool,
}

/// Every block behind a mark, by the name in the mark, and every way to run a file: `enqueue.py` is `python-insert`,
/// and with `REDIS_URL` `python-hint`.
pub fn snippets() -> BTreeMap<String, Snippet> {
    let mut found = blocks();
    for (file, text) in files() {
        let (program, suffix) = file.split_once('.').unwrap();
        let language = match suffix {
            "sh" | "php" => suffix,
            "py" => "python",
            "js" => "node",
            other => panic!("no interpreter for {other}"),
        };
        let kinds: &[&str] = match program {
            "enqueue" => &["insert", "hint"],
            "start_check" => &["http"],
            other => panic!("no test of {other}"),
        };
        for kind in kinds {
            let snippet = Snippet {
                language: language.to_owned(),
                text: text.clone(),
                file: Some(folder().join(&file)),
                sends_hint: *kind == "hint",
            };
            let before = found.insert(format!("{language}-{kind}"), snippet);
            assert_eq!(before, None, "{file}");
        }
    }
    found
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)
}

/// The files, by name.
fn files() -> BTreeMap<String, String> {
    std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn blocks() -> BTreeMap<String, Snippet> {
    let mut found = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix(MARK) else {
            continue;
        };
        let name = name.strip_suffix(" -->").expect("a mark is a comment");
        let language = lines.next().and_then(|l| l.strip_prefix("```")).unwrap();
        let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let snippet = Snippet {
            language: language.to_owned(),
            text: text.join("\n") + "\n",
            file: None,
            sends_hint: false,
        };
        assert!(found.insert(name.to_owned(), snippet).is_none(), "{name}");
    }
    found
}

#[test]
fn every_block_is_tested_or_a_command_of_verifyds_own() {
    let blocks = PAGE.lines().filter(|l| l.starts_with("```")).count() / 2;
    let marked = PAGE.matches(MARK).count();
    // One is not marked: `cargo run --example enqueue`, which producer.rs runs.
    assert_eq!(blocks, marked + 1);
}

#[test]
fn the_page_leads_to_every_file() {
    for file in files().into_keys() {
        let link = format!("](../../{FOLDER}/{file})");
        assert!(PAGE.contains(&link), "{file}");
    }
}

/// From `INSERT` to the condition, which has the parameter as each library writes it.
#[test]
fn every_program_records_the_row_of_the_page() {
    let row = |text: &str| -> Option<Vec<String>> {
        let (_, row) = text.split_once("INSERT INTO ")?;
        let (row, _) = row.split_once("WHERE c.id =")?;
        Some(row.split_whitespace().map(str::to_owned).collect())
    };
    let of_page = row(PAGE).unwrap();
    for (file, text) in files() {
        let expected = file.starts_with("enqueue.").then_some(&of_page);
        assert_eq!(row(&text).as_ref(), expected, "{file}");
    }
}

#[test]
fn the_sha_is_that_of_the_script() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = std::fs::read(folder.join("contracts/enqueue.lua")).unwrap();
    let sha = redis::Script::new(std::str::from_utf8(&script).unwrap())
        .get_hash()
        .to_owned();
    assert!(PAGE.contains(&format!("`{sha}`")), "it is {sha}");
}
