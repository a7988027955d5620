//! The snippets of docs/guides/enqueue.md.

use std::collections::BTreeMap;
use std::path::Path;

const PAGE: &str = include_str!("../../../docs/guides/enqueue.md");
const MARK: &str = "<!-- tested: ";

/// A fenced block of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    pub language: String,
    pub text: String,
}

/// Every block behind a mark, by the name in the mark.
pub fn snippets() -> BTreeMap<String, Snippet> {
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
    assert_eq!(snippets().len(), marked);
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
