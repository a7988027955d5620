//! Completion events: what is published when a run is completed. The run's row is authoritative; an event
//! points to it.

use super::ids::{ConnectionId, RunId, TenantId, WorkspaceId};
use super::run::Outcome;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// The published schema: `$defs/notice` is a completion event, `$defs/event` a webhook's event.
pub const SCHEMA: &str = include_str!("../../contracts/run-completed.v1.schema.json");

/// The only type of event that is sent to webhooks.
const EVENT_TYPE: &str = "provider.connection.check.completed";

/// The event that a run has been completed: the payload in PostgreSQL and Redis, and `data` of a
/// webhook's event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompletionEvent {
    pub operation_run_id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    pub tenant_id: Option<TenantId>,
    /// `None` when the run named no connection of its own tenant.
    pub provider_connection_id: Option<ConnectionId>,
    pub outcome: Outcome,
    /// The report's `summary.overall`.
    pub overall: String,
    /// The report's fingerprint.
    pub fingerprint: String,
    /// Whether the fingerprint differs from that of the connection's previous report. True without one.
    pub changed: bool,
}

/// The body of a webhook's request, by the Standard Webhooks specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEvent {
    #[serde(rename = "type")]
    pub event_type: String,
    /// When the run was completed, RFC 3339 in UTC.
    pub timestamp: String,
    pub data: CompletionEvent,
}

impl WebhookEvent {
    /// Creates the webhook event of a run that was completed at `at`.
    pub fn completed(event: CompletionEvent, at: DateTime<Utc>) -> Self {
        Self {
            event_type: EVENT_TYPE.to_owned(),
            timestamp: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            data: event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn validator(of: &str) -> jsonschema::Validator {
        let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
        schema["$ref"] = json!(format!("#/$defs/{of}"));
        schema.as_object_mut().unwrap().remove("oneOf");
        jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap()
    }

    fn events() -> Vec<CompletionEvent> {
        let full = CompletionEvent {
            operation_run_id: RunId(42),
            workspace_id: Some(WorkspaceId(1)),
            tenant_id: Some(TenantId(2)),
            provider_connection_id: Some(ConnectionId(3)),
            outcome: Outcome::Blocked,
            overall: "blocked".into(),
            fingerprint: "0".repeat(64),
            changed: true,
        };
        let platform = CompletionEvent {
            workspace_id: None,
            tenant_id: None,
            provider_connection_id: None,
            outcome: Outcome::Failed,
            ..full.clone()
        };
        vec![full, platform]
    }

    #[test]
    fn events_match_the_published_schema() {
        for completion in events() {
            let json = serde_json::to_value(&completion).unwrap();
            assert!(validator("notice").is_valid(&json), "{json}");
            let event = WebhookEvent::completed(completion, DateTime::UNIX_EPOCH);
            assert_eq!(event.timestamp, "1970-01-01T00:00:00.000Z");
            let json = serde_json::to_value(&event).unwrap();
            assert!(validator("event").is_valid(&json), "{json}");
        }
    }

    #[test]
    fn the_schema_requires_every_member_and_no_other() {
        let json = serde_json::to_value(&events()[0]).unwrap();
        for key in json.as_object().unwrap().keys() {
            let mut less = json.clone();
            less.as_object_mut().unwrap().remove(key);
            assert!(!validator("notice").is_valid(&less), "{key}");
        }
        let mut more = json;
        more["url"] = json!("x");
        assert!(!validator("notice").is_valid(&more));
    }

    /// PostgreSQL limits the payload of a notification to 8,000 bytes.
    #[test]
    fn the_longest_event_is_short() {
        let mut longest = events().remove(0);
        longest.operation_run_id = RunId(i64::MIN);
        longest.workspace_id = Some(WorkspaceId(i64::MIN));
        longest.tenant_id = Some(TenantId(i64::MIN));
        longest.provider_connection_id = Some(ConnectionId(i64::MIN));
        longest.overall = "needs_attention".into();
        assert!(serde_json::to_string(&longest).unwrap().len() < 500);
    }
}
