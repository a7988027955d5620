//! The table of all keys for docs/reference/configuration.md, made from the comments of config/default.toml.

use std::fmt::Write;

/// Begins the line that says what is allowed.
const ALLOWED: &str = "Allowed: ";

/// One key of config/default.toml with its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Documented {
    pub(super) section: String,
    pub(super) name: String,
    /// As written, in TOML.
    pub(super) default: String,
    /// Empty if there is no comment directly above.
    pub(super) meaning: String,
    pub(super) allowed: String,
}

/// Sections with the sentence above each, and the keys, both in the order of the file.
pub(super) fn parse(default: &str) -> (Vec<(String, String)>, Vec<Documented>) {
    let (mut sections, mut keys) = (Vec::new(), Vec::new());
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in default.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
            sections.push((section.clone(), comment.join(" ")));
            comment.clear();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let (allowed, meaning): (Vec<&str>, Vec<&str>) = comment
                .drain(..)
                .partition(|line| line.starts_with(ALLOWED));
            keys.push(Documented {
                section: section.clone(),
                name: name.to_owned(),
                default: value.to_owned(),
                meaning: meaning.join(" "),
                allowed: allowed.join(" ").replacen(ALLOWED, "", 1),
            });
        } else {
            comment.clear();
        }
    }
    (sections, keys)
}

/// A heading, a sentence and a table for each section, in Markdown.
pub fn tables() -> String {
    let (sections, keys) = parse(super::DEFAULT);
    let mut out = String::new();
    for (section, about) in sections {
        let _ = writeln!(out, "### `[{section}]`\n\n{about}\n");
        out.push_str("| key | default | allowed | meaning | variable |\n|---|---|---|---|---|\n");
        for key in keys.iter().filter(|key| key.section == section) {
            let full = format!("{section}.{}", key.name);
            let variable = full.replace('.', "__").to_uppercase();
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {} | {} | `VERIFYD__{variable}` |",
                key.name,
                cell(&key.default),
                cell(&key.allowed),
                cell(&key.meaning),
            );
        }
        out.push('\n');
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
