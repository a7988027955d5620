//! The key `http.oidc.grants`: a list of tables, checked as `verifyd tokens create` checks a token.

use super::sources::convert;
use crate::domain::access::Scope;
use config::{Map, Value, ValueKind};
use std::fmt::Write as _;

/// What is allowed.
pub(super) const ALLOWED: &str = "a list of { value = \"…\", scopes = [\"…\"], workspace = 1, tenant = 2 }, or without the last two";

const MEMBERS: [&str; 4] = ["value", "scopes", "workspace", "tenant"];

/// Longest value of a claim, in bytes.
const VALUE_BYTES: usize = 255;

/// Reads the text of an environment variable: the list in TOML. Anything else stays text, which [`check`] never sees.
pub(super) fn read(origin: &str, text: &str) -> ValueKind {
    if text.trim().is_empty() {
        return ValueKind::Array(Vec::new());
    }
    let table: Result<toml::Table, _> = format!("list = {}", text.trim()).parse();
    let table = table.ok().filter(|table| table.len() == 1);
    let list = table.and_then(|mut table| table.remove("list"));
    let list = list.and_then(|list| convert(list, origin));
    list.map_or_else(|| ValueKind::String(text.to_owned()), |list| list.kind)
}

/// Refuses what is not allowed; says what was found instead.
pub(super) fn check(items: &[Value]) -> Result<(), String> {
    for (index, item) in items.iter().enumerate() {
        let ValueKind::Table(members) = &item.kind else {
            return Err(format!("no table as element [{index}]"));
        };
        if let Some(problem) = problem(members) {
            return Err(format!("{problem} in element [{index}]"));
        }
    }
    Ok(())
}

fn problem(members: &Map<String, Value>) -> Option<String> {
    if let Some(unknown) = members.keys().find(|name| !MEMBERS.contains(&&***name)) {
        return Some(format!("the unknown member {unknown:?}"));
    }
    match members.get("value").map(|value| &value.kind) {
        Some(ValueKind::String(text)) if (1..=VALUE_BYTES).contains(&text.len()) => {}
        _ => return Some(format!("no value of 1 to {VALUE_BYTES} bytes")),
    }
    let Some(ValueKind::Array(names)) = members.get("scopes").map(|scopes| &scopes.kind) else {
        return Some("no list of scopes".to_owned());
    };
    let mut scopes = Vec::new();
    for name in names {
        let ValueKind::String(name) = &name.kind else {
            return Some("a scope that is no text".to_owned());
        };
        match name.parse::<Scope>() {
            Ok(scope) => scopes.push(scope),
            Err(error) => return Some(error.to_string()),
        }
    }
    if scopes.is_empty() {
        return Some("an empty list of scopes".to_owned());
    }
    let id = |name: &str| match members.get(name).map(|id| &id.kind) {
        None => Ok(false),
        Some(ValueKind::I64(1..)) => Ok(true),
        Some(_) => Err(format!("a {name} that is no whole number from 1")),
    };
    match (id("workspace"), id("tenant")) {
        (Err(problem), _) | (_, Err(problem)) => Some(problem),
        (Ok(false), Ok(true)) => Some("a tenant without its workspace".to_owned()),
        (Ok(true), _) if scopes.contains(&Scope::Admin) => {
            Some("the scope admin, which belongs to no workspace, with a workspace".to_owned())
        }
        _ => None,
    }
}

/// A value in TOML.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match &value.kind {
        ValueKind::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write(item, out);
            }
            out.push(']');
        }
        ValueKind::Table(members) => {
            let known = MEMBERS
                .iter()
                .filter_map(|name| Some((name, members.get(*name)?)));
            out.push_str("{ ");
            for (index, (name, member)) in known.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                let _ = write!(out, "{name} = ");
                write(member, out);
            }
            out.push_str(" }");
        }
        ValueKind::String(text) => out.push_str(&super::print::quoted(text)),
        ValueKind::I64(number) => {
            let _ = write!(out, "{number}");
        }
        // The rule allows nothing else.
        _ => out.push_str("\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<String, String> {
        let kind = read("test", text);
        let ValueKind::Array(items) = &kind else {
            return Err("no list".to_owned());
        };
        check(items)?;
        Ok(super::text(&Value::new(None, kind)))
    }

    #[test]
    fn what_a_value_gives_is_what_a_token_may_have() {
        for text in [
            "[]",
            r#"[{ value = "ops", scopes = ["read", "run", "admin", "audit"] }]"#,
            r#"[{ value = "a \"b\"", scopes = ["read"], workspace = 1 }, { value = "c", scopes = ["run"], workspace = 1, tenant = 2 }]"#,
        ] {
            assert_eq!(checked(text), Ok(text.to_owned()));
        }
        for (text, found) in [
            ("ops", "no list"),
            ("[1]", "no table"),
            (r#"[{ scopes = ["read"] }]"#, "no value"),
            (r#"[{ value = "", scopes = ["read"] }]"#, "no value"),
            (r#"[{ value = "a" }]"#, "no list of scopes"),
            (r#"[{ value = "a", scopes = [] }]"#, "an empty list"),
            (
                r#"[{ value = "a", scopes = ["write"] }]"#,
                "scope is \"write\"",
            ),
            (
                r#"[{ value = "a", scopes = ["read"], tenant = 2 }]"#,
                "without its workspace",
            ),
            (
                r#"[{ value = "a", scopes = ["read"], workspace = 0 }]"#,
                "no whole number",
            ),
            (
                r#"[{ value = "a", scopes = ["admin"], workspace = 1 }]"#,
                "belongs to no workspace",
            ),
            (
                r#"[{ value = "a", scopes = ["read"], role = 1 }]"#,
                "unknown member",
            ),
        ] {
            let said = checked(text).unwrap_err();
            assert!(said.contains(found), "{text}: {said}");
        }
    }
}
