//! An entry of the audit trail.

use super::words;
use crate::domain::audit::AuditEntry;
use crate::domain::report::redact;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Longest text that is shown, in characters.
const TEXT_CHARS: usize = 2_100;

/// Who did what, from where, and what was there before and after.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditEntryView {
    pub id: i64,
    pub at: DateTime<Utc>,
    /// The list of names grows.
    pub action: String,
    /// What `object_id` is the id of; the list of names grows.
    pub object: String,
    /// Null where it is of nothing that verifyd knows, as in a refused sign-in.
    pub object_id: Option<i64>,
    /// Workspace of the object; null where it belongs to none.
    pub workspace_id: Option<i64>,
    pub tenant_id: Option<i64>,
    /// `api`, `pages` or `cli`
    pub surface: String,
    /// The token that was used; null on the command line.
    pub token_id: Option<i64>,
    /// The token's name at that time; on the command line the user of the operating system.
    pub actor: String,
    /// Address of the peer: behind a proxy the proxy's. Null on the command line.
    pub address: Option<String>,
    /// Id of the request over HTTP, as in its answer. Null on the command line.
    pub request_id: Option<String>,
    /// What was there, without secrets; its members depend on the action.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// What is there, without secrets; its members depend on the action.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

impl From<AuditEntry> for AuditEntryView {
    fn from(entry: AuditEntry) -> Self {
        let clean = |text: &str| redact::clean(text, TEXT_CHARS);
        Self {
            id: entry.id.0,
            at: entry.at,
            action: clean(&entry.action),
            object: clean(&entry.object),
            object_id: entry.object_id,
            workspace_id: entry.owner.workspace_id.map(|id| id.0),
            tenant_id: entry.owner.tenant_id.map(|id| id.0),
            surface: clean(&entry.surface),
            token_id: entry.token_id.map(|id| id.0),
            actor: clean(&entry.actor),
            address: entry.address.as_deref().map(clean),
            request_id: entry.request_id.as_deref().map(clean),
            before: entry.before.map(cleaned),
            after: entry.after.map(cleaned),
        }
    }
}

impl AuditEntryView {
    /// Returns what was done, for people.
    pub fn words(&self) -> String {
        match self.action.parse() {
            Ok(action) => words::audit_action(action).to_owned(),
            Err(_) => self.action.clone(),
        }
    }

    /// Returns what it was done with: `connection 5`.
    pub fn subject(&self) -> String {
        let object = self.object.replace('_', " ");
        match self.object_id {
            Some(id) => format!("{object} {id}"),
            None => "–".to_owned(),
        }
    }

    /// Returns the actor, and from where: `ops, 10.0.0.7`.
    pub fn who(&self) -> String {
        match &self.address {
            Some(address) => format!("{}, {address}", self.actor),
            None => self.actor.clone(),
        }
    }

    /// Returns what has changed, a member each: `status: enabled → disabled`.
    pub fn changes(&self) -> Vec<String> {
        let members = |value: &Option<Value>| {
            let members = value.as_ref().and_then(Value::as_object);
            members.cloned().unwrap_or_default()
        };
        let (before, after) = (members(&self.before), members(&self.after));
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let change = |name: &String| {
            let (old, new) = (before.get(name), after.get(name));
            let shown = match (&self.before, &self.after) {
                (Some(_), Some(_)) if old == new => return None,
                (Some(_), Some(_)) => format!("{} → {}", text(old), text(new)),
                _ if old.or(new).is_none_or(Value::is_null) => return None,
                _ => text(old.or(new)),
            };
            Some(format!("{name}: {shown}"))
        };
        names.into_iter().filter_map(change).collect()
    }
}

/// Cleans every text in a value, names of members too.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(mut text) => {
            redact::tidy(&mut text, TEXT_CHARS);
            Value::String(text)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(cleaned).collect()),
        Value::Object(members) => {
            let members = members.into_iter();
            let members = members.map(|(mut name, value)| {
                redact::tidy(&mut name, TEXT_CHARS);
                (name, cleaned(value))
            });
            Value::Object(members.collect())
        }
        other => other,
    }
}

/// A value, as it stands in a line.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| text(Some(item))).collect();
            items.join(", ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::AuditEntryId;
    use crate::domain::access::Binding;
    use crate::domain::audit::AuditAction;
    use serde_json::json;

    fn view(action: &str, before: Option<Value>, after: Option<Value>) -> AuditEntryView {
        AuditEntryView::from(AuditEntry {
            id: AuditEntryId(1),
            at: DateTime::default(),
            action: action.to_owned(),
            object: "webhook_endpoint".to_owned(),
            object_id: Some(3),
            owner: Binding::EVERYTHING,
            surface: "cli".to_owned(),
            token_id: None,
            actor: "ops, uid 1000".to_owned(),
            address: None,
            request_id: None,
            before,
            after,
        })
    }

    #[test]
    fn an_entry_says_what_has_changed() {
        let before = json!({ "enabled": true, "disabled_reason": null, "kept": 1 });
        let after = json!({ "enabled": false, "disabled_reason": "operator", "kept": 1 });
        let both = view("webhook_endpoint.disabled", Some(before), Some(after));
        assert_eq!(
            both.changes(),
            ["disabled_reason: – → operator", "enabled: true → false"]
        );
        assert_eq!(both.words(), "Webhook endpoint disabled");
        assert_eq!(both.subject(), "webhook endpoint 3");
        let after = json!({ "scopes": ["read", "run"], "expires_at": null });
        let one = view("token.created", None, Some(after));
        assert_eq!(one.changes(), ["scopes: read, run"]);
        assert!(view("token.revoked", None, None).changes().is_empty());
    }

    #[test]
    fn only_what_differs_of_an_expiry_is_shown() {
        let facts = |end: &str| Some(json!({ "kind": "client_secret", "expires_at": end }));
        let set = view("credential.expiry_set", facts("2026"), facts("2027"));
        assert_eq!(set.changes(), ["expires_at: 2026 → 2027"]);
    }

    #[test]
    fn no_text_of_an_entry_hides_or_reorders_what_a_reader_sees() {
        let hostile = "\u{9b}31m\u{202e}x\n";
        let nested = json!({ hostile: [hostile, { "a": hostile }], "b": 1 });
        let mut entry = view(hostile, Some(nested.clone()), Some(nested));
        let cleaned = "\u{fffd}31m\u{fffd}x\u{fffd}";
        assert_eq!(entry.action, cleaned);
        let nested = json!({ cleaned: [cleaned, { "a": cleaned }], "b": 1 });
        assert_eq!(entry.before, Some(nested.clone()));
        assert_eq!(entry.after.take(), Some(nested));
        assert_eq!(entry.words(), cleaned);
        let shown = entry.changes().join(" ");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }

    #[test]
    fn an_action_of_a_newer_build_is_shown_by_its_name() {
        assert_eq!(view("moon.painted", None, None).words(), "moon.painted");
        for action in AuditAction::ALL {
            assert_ne!(view(action.as_str(), None, None).words(), action.as_str());
        }
    }
}
