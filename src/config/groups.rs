//! The key `worker.groups`: a list of tables.

use crate::domain::groups::DEFAULT_GROUP;
use config::{Value, ValueKind};
use std::collections::BTreeSet;

/// What is allowed.
pub(super) const ALLOWED: &str =
    "a list of { name = \"…\", workspaces = [1, 2] }, each workspace in one of them";

pub(super) const MEMBERS: [&str; 2] = ["name", "workspaces"];

/// Longest name of a group, in bytes: a part of the queue's.
const NAME_BYTES: usize = 32;

/// Most workspaces in all groups together: every claim and every sweep sends them to the database.
const MAX_WORKSPACES: usize = 1_000;

/// Whether it may be the name of a group.
pub(super) fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Refuses what is not allowed; says what was found instead.
pub(super) fn check(items: &[Value]) -> Result<(), String> {
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        if let Some(problem) = problem(item, &mut names, &mut ids) {
            return Err(format!("{problem} in element [{index}]"));
        }
    }
    match ids.len() > MAX_WORKSPACES {
        true => Err(format!("more than {MAX_WORKSPACES} workspaces")),
        false => Ok(()),
    }
}

/// Adds the group's name and workspaces to those of the groups before it.
fn problem<'a>(
    item: &'a Value,
    names: &mut BTreeSet<&'a str>,
    ids: &mut BTreeSet<i64>,
) -> Option<String> {
    let ValueKind::Table(members) = &item.kind else {
        return Some("no table".to_owned());
    };
    if let Some(unknown) = members.keys().find(|name| !MEMBERS.contains(&&***name)) {
        return Some(format!("the unknown member {unknown:?}"));
    }
    let name = match members.get("name").map(|name| &name.kind) {
        Some(ValueKind::String(name)) if is_name(name) => name,
        _ => {
            return Some(format!(
                "no name of 1 to {NAME_BYTES} lower-case letters, digits, '-' or '_'"
            ));
        }
    };
    if name == DEFAULT_GROUP {
        return Some(format!(
            "the name {name:?}, which is that of the group of all others,"
        ));
    }
    if !names.insert(name) {
        return Some(format!("the name {name:?} again"));
    }
    let workspaces = match members.get("workspaces").map(|list| &list.kind) {
        Some(ValueKind::Array(workspaces)) if !workspaces.is_empty() => workspaces,
        _ => return Some("no list of workspaces".to_owned()),
    };
    for workspace in workspaces {
        match workspace.kind {
            ValueKind::I64(id @ 1..) if ids.insert(id) => {}
            ValueKind::I64(id @ 1..) => return Some(format!("the workspace {id} again")),
            _ => return Some("a workspace that is no whole number from 1".to_owned()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::table_list::{read, text};
    use super::*;

    fn checked(list: &str) -> Result<String, String> {
        let kind = read("test", list);
        let ValueKind::Array(items) = &kind else {
            return Err("no list".to_owned());
        };
        check(items)?;
        Ok(text(&Value::new(None, kind), &MEMBERS))
    }

    #[test]
    fn a_workspace_is_in_one_group() {
        for list in [
            "[]",
            r#"[{ name = "eu", workspaces = [1, 2] }, { name = "large_1", workspaces = [3] }]"#,
        ] {
            assert_eq!(checked(list), Ok(list.to_owned()));
        }
        for (list, found) in [
            ("eu", "no list"),
            ("[1]", "no table"),
            (
                r#"[{ name = "eu", workspaces = [1], queue = "q" }]"#,
                "unknown member",
            ),
            ("[{ workspaces = [1] }]", "no name"),
            (r#"[{ name = "e/u", workspaces = [1] }]"#, "no name"),
            (
                r#"[{ name = "default", workspaces = [1] }]"#,
                "the group of all others",
            ),
            (r#"[{ name = "eu" }]"#, "no list of workspaces"),
            (
                r#"[{ name = "eu", workspaces = [] }]"#,
                "no list of workspaces",
            ),
            (r#"[{ name = "eu", workspaces = [0] }]"#, "no whole number"),
            (
                r#"[{ name = "eu", workspaces = [1] }, { name = "eu", workspaces = [2] }]"#,
                "the name \"eu\" again in element [1]",
            ),
            (
                r#"[{ name = "eu", workspaces = [1] }, { name = "us", workspaces = [2, 1] }]"#,
                "the workspace 1 again in element [1]",
            ),
        ] {
            let said = checked(list).unwrap_err();
            assert!(said.contains(found), "{list}: {said}");
        }
        let ids: Vec<String> = (1..=1_001).map(|id: i32| id.to_string()).collect();
        let many = format!("[{{ name = \"eu\", workspaces = [{}] }}]", ids.join(", "));
        assert!(checked(&many).unwrap_err().contains("more than 1000"));
    }
}
