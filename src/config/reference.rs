//! The tables for docs/reference/configuration.md: all keys, from the comments of config/default.toml and the
//! rules.

use super::keys;
use std::fmt::Write;

/// One key of config/default.toml with its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Documented {
    pub(super) section: String,
    pub(super) name: String,
    /// As written, in TOML.
    pub(super) default: String,
    /// Empty if there is no comment directly above.
    pub(super) meaning: String,
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
            keys.push(Documented {
                section: section.clone(),
                name: name.to_owned(),
                default: value.to_owned(),
                meaning: comment.join(" "),
            });
            comment.clear();
        } else {
            comment.clear();
        }
    }
    (sections, keys)
}

/// Returns a heading, a sentence and a table for each section, then a table of all clouds, in Markdown.
pub fn tables() -> String {
    let (sections, keys) = parse(super::DEFAULT);
    let (clouds, sections): (Vec<_>, Vec<_>) = sections
        .into_iter()
        .partition(|(section, _)| section.starts_with(keys::CLOUDS));
    let mut out = String::new();
    for (section, about) in sections {
        let _ = writeln!(out, "### `[{section}]`\n\n{about}\n");
        out.push_str("| key | default | allowed | meaning |\n|---|---|---|---|\n");
        for key in keys.iter().filter(|key| key.section == section) {
            let allowed = keys::rule(&format!("{section}.{}", key.name));
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {} | {} |",
                key.name,
                cell(&key.default),
                cell(&allowed.map(|rule| rule.to_string()).unwrap_or_default()),
                cell(&key.meaning),
            );
        }
        out.push('\n');
    }
    let _ = writeln!(out, "### `[{}NAME]`\n", keys::CLOUDS);
    for name in keys::CLOUD_KEYS {
        let (first, _) = &clouds[0];
        let key = keys
            .iter()
            .find(|key| key.section == *first && key.name == name);
        let meaning = key.map_or("", |key| key.meaning.as_str());
        let allowed = keys::rule(&format!("{first}.{name}"));
        let allowed = allowed.map(|rule| rule.to_string()).unwrap_or_default();
        let _ = writeln!(out, "- `{name}`: {meaning} Allowed: {allowed}.");
    }
    let _ = writeln!(
        out,
        "\n| cloud | {} |\n|---|---|---|---|",
        keys::CLOUD_KEYS.join(" | ")
    );
    for (section, about) in &clouds {
        let of_cloud = keys.iter().filter(|key| key.section == *section);
        let addresses: Vec<String> = of_cloud.map(|key| format!("`{}`", key.default)).collect();
        let name = section.trim_start_matches(keys::CLOUDS);
        let _ = writeln!(out, "| `{name}`: {about} | {} |", addresses.join(" | "));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
