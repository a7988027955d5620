//! The key `http.oidc.grants`: a list of tables, checked as `verifyd tokens create` checks a token.

use crate::domain::access::Scope;
use config::{Map, Value, ValueKind};

/// What is allowed.
pub(super) const ALLOWED: &str = "a list of { value = \"…\", scopes = [\"…\"], workspace = 1, tenant = 2 }, or without the last two";

pub(super) const MEMBERS: [&str; 4] = ["value", "scopes", "workspace", "tenant"];

/// Longest value of a claim, in bytes.
const VALUE_BYTES: usize = 255;

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

#[cfg(test)]
mod tests {
    use super::super::table_list;
    use super::*;

    fn checked(text: &str) -> Result<String, String> {
        let kind = table_list::read("test", text);
        let ValueKind::Array(items) = &kind else {
            return Err("no list".to_owned());
        };
        check(items)?;
        Ok(table_list::text(&Value::new(None, kind), &MEMBERS))
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
