//! The programs of docs/guides/enqueue.md: its snippets, and the files of `examples/enqueue` that it leads to.

use std::collections::BTreeMap;
use std::path::Path;

const PAGE: &str = include_str!("../../../docs/guides/enqueue.md");
const MARK: &str = "<!-- tested: ";
const FOLDER: &str = "examples/enqueue";

/// A fenced block of the page, or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    pub language: String,
    pub text: String,
}

/// Every block behind a mark, by the name in the mark, and every file: `insert.py` is `python-insert`.
pub fn snippets() -> BTreeMap<String, Snippet> {
    let mut found = blocks();
    for (file, text) in files() {
        let (kind, suffix) = file.split_once('.').unwrap();
        let (client, language) = match suffix {
            "sh" => ("redis-cli", "sh"),
            "php" => ("php", "php"),
            "py" => ("python", "python"),
            "js" => ("node", "js"),
            other => panic!("no interpreter for {other}"),
        };
        let name = format!("{client}-{kind}");
        let language = language.to_owned();
        let before = found.insert(name, Snippet { language, text });
        assert_eq!(before, None, "{file}");
    }
    found
}

/// The files, by name.
fn files() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    std::fs::read_dir(folder)
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
    assert_eq!(snippets().len(), marked + files().len());
}

#[test]
fn the_page_leads_to_every_file() {
    for file in files().into_keys() {
        let link = format!("](../../{FOLDER}/{file})");
        assert!(PAGE.contains(&link), "{file}");
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
