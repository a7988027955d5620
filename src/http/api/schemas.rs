//! Schemas of what the view model is made of, for the OpenAPI document.
//!
//! The view model knows nothing of HTTP, so its shapes are written down here. `tests/system/api` holds every
//! answer against them; members that are not named are not allowed, so that none is forgotten.

use crate::domain::connection::ConnectionStatus;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::report::{Overall, schema};
use crate::domain::run::{Outcome, RunStatus};
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! names {
    ($($type:ident: $($variant:ident),+;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([$($type::$variant.as_str()),+]))
                    .build()
                    .into()
            }
        }
        impl ToSchema for $type {}
    )+};
}

names! {
    RunStatus: Queued, Running, Completed;
    Outcome: Succeeded, Failed, Blocked;
    Overall: Running, Blocked, NeedsAttention, Ready;
    ConnectionStatus: Enabled, Disabled, Unusable;
    ExpirySource: Certificate, Recorded, Registration, FederatedToken;
}

/// An object of which every member is there.
fn object(description: &str, members: Value) -> Value {
    let required: Vec<&String> = members
        .as_object()
        .map(|m| m.keys().collect())
        .unwrap_or_default();
    json!({
        "type": "object",
        "description": description,
        "required": required,
        "properties": members,
        "additionalProperties": false,
    })
}

fn component(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn or_null(schema: Value) -> Value {
    json!({ "oneOf": [{ "type": "null" }, schema] })
}

fn list(schema: Value) -> Value {
    json!({ "type": "array", "items": schema })
}

/// All schemas that no derive makes.
pub fn components() -> Map<String, Value> {
    let id = || json!({ "type": "integer", "format": "int64" });
    let id_or_null = || json!({ "type": ["integer", "null"], "format": "int64" });
    let text = || json!({ "type": "string" });
    let text_or_null = || json!({ "type": ["string", "null"] });
    let time = || json!({ "type": "string", "format": "date-time" });
    let time_or_null = || json!({ "type": ["string", "null"], "format": "date-time" });
    let flag = || json!({ "type": "boolean" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let mut all = report();
    let mut add = |name: &str, schema: Value| all.insert(name.to_owned(), schema);
    for (name, of) in [
        ("RunStatus", <RunStatus as PartialSchema>::schema()),
        ("Outcome", Outcome::schema()),
        ("Overall", Overall::schema()),
        ("ConnectionStatus", ConnectionStatus::schema()),
        ("ExpirySource", ExpirySource::schema()),
    ] {
        add(name, json!(of));
    }
    add(
        "Acknowledgement",
        object(
            "What a person has seen and accepted on one check. It changes no status and no outcome.",
            json!({
                "id": id(),
                "standing": { "type": "string", "enum": ["active", "withdrawn", "expired"] },
                "operation_run_id": id(),
                "inherited": flag(),
                "check_key": text(),
                "reason_code": text_or_null(),
                "reason": text(),
                "acknowledged_by": text(),
                "acknowledged_through": or_null(component("Actor")),
                "acknowledged_at": time(),
                "expires_at": time_or_null(),
                "withdrawn_at": time_or_null(),
                "withdrawn_by": text_or_null(),
                "withdrawn_through": or_null(component("Actor")),
            }),
        ),
    );
    add(
        "Actor",
        object(
            "Who did something by what verifyd knows, beside the name that the person gives.",
            json!({
                "surface": { "type": "string", "enum": ["api", "pages", "cli"] },
                "token_id": id_or_null(),
                "name": {
                    "type": "string",
                    "description": "The token's name; on the command line the system's user.",
                },
            }),
        ),
    );
    add("CheckView", check_view());
    let checks = || list(component("CheckView"));
    add(
        "ReportView",
        object(
            "A report in the order in which a person needs it.",
            json!({
                "overall": component("Overall"),
                "generated_at": text(),
                "fingerprint": text(),
                "previous_report_id": id_or_null(),
                "entra_tenant_id": text_or_null(),
                "client_id": text_or_null(),
                "cloud": text_or_null(),
                "provider_connection_id": id_or_null(),
                "acknowledged": count(),
                "problems": checks(),
                "running": checks(),
                "passed": checks(),
                "skipped": checks(),
            }),
        ),
    );
    let state = |name: &str, more: Value| {
        let mut members = json!({ "state": { "const": name } });
        if let (Some(members), Value::Object(more)) = (members.as_object_mut(), more) {
            members.extend(more);
        }
        object("", members)
    };
    add(
        "ReportState",
        json!({
            "description": "Whether there is a report, and whether it can be read.",
            "oneOf": [
                state("pending", json!({})),
                state("missing", json!({})),
                state("other_version", json!({ "schema_version": text() })),
                state("unreadable", json!({ "problems": list(text()) })),
                state("readable", json!({ "report": component("ReportView") })),
            ],
        }),
    );
    add(
        "Attempt",
        object(
            "One attempt at a run.",
            json!({
                "attempt": { "type": "integer", "minimum": 1 },
                "worker_id": text(),
                "counted": flag(),
                "claimed_at": time(),
                "ended_at": time_or_null(),
                "end_reason": text_or_null(),
                "took_ms": count(),
                "end": text(),
            }),
        ),
    );
    let milliseconds = || json!({ "type": ["integer", "null"], "minimum": 0 });
    add(
        "Timeline",
        object(
            "The times of a run.",
            json!({
                "recorded_at": time_or_null(),
                "claimed_at": time_or_null(),
                "completed_at": time_or_null(),
                "waited_ms": milliseconds(),
                "worked_ms": milliseconds(),
                "attempts": list(component("Attempt")),
            }),
        ),
    );
    add(
        "CheckChange",
        object(
            "One check, before and now.",
            json!({
                "key": text(),
                "change": { "type": "string", "enum": ["new", "unchanged", "changed", "gone"] },
                "before": or_null(component("VerificationReport_check")),
                "now": or_null(component("VerificationReport_check")),
            }),
        ),
    );
    add(
        "Diff",
        object(
            "What changed against the previous report of the same connection, or why that cannot be said.",
            json!({
                "operation_run_id": id(),
                "previous_report_id": id_or_null(),
                "state": {
                    "type": "string",
                    "enum": ["compared", "first", "previous_gone", "previous_unreadable", "unreadable"],
                },
                "unchanged": flag(),
                "overall_before": or_null(component("Overall")),
                "overall_now": or_null(component("Overall")),
                "counts": object("How many checks changed how.", json!({
                    "new": count(), "changed": count(), "gone": count(), "unchanged": count(),
                })),
                "checks": list(component("CheckChange")),
            }),
        ),
    );
    add(
        "Run",
        object(
            "A run with all that is known of it.",
            json!({
                "operation_run_id": id(),
                "workspace_id": id_or_null(),
                "tenant_id": id_or_null(),
                "provider_connection_id": id_or_null(),
                "provider": text_or_null(),
                "module": text_or_null(),
                "display_name": text_or_null(),
                "status": component("RunStatus"),
                "outcome": or_null(component("Outcome")),
                "recorded_at": time_or_null(),
                "completed_at": time_or_null(),
                "verdict": text(),
                "report": component("ReportState"),
                "other_acknowledgements": list(component("Acknowledgement")),
                "timeline": component("Timeline"),
                "diff": component("Diff"),
            }),
        ),
    );
    add(
        "OnboardingSession",
        object(
            "An onboarding session, and the run that it points to.",
            json!({
                "onboarding_session_id": id(),
                "workspace_id": id_or_null(),
                "tenant_id": id_or_null(),
                "operation_run_id": id_or_null(),
                "provider_connection_id": id_or_null(),
                "verdict": text(),
                "run": or_null(component("Run")),
            }),
        ),
    );
    all
}

/// The published schema, its definitions as components of their own.
fn report() -> Map<String, Value> {
    let mut schema: Value = serde_json::from_str(schema::SCHEMA).unwrap_or_default();
    let mut all = Map::new();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$id");
        schema.remove("$schema");
        if let Some(Value::Object(definitions)) = schema.remove("$defs") {
            for (name, definition) in definitions {
                all.insert(format!("VerificationReport_{name}"), definition);
            }
        }
    }
    all.insert("VerificationReport".to_owned(), schema);
    all.values_mut().for_each(lift);
    all
}

/// Points references to definitions to where they stand now.
fn lift(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(definition) = target.strip_prefix("#/$defs/") {
                            *target =
                                format!("#/components/schemas/VerificationReport_{definition}");
                        }
                    }
                    // Examples are data.
                    _ if name == "examples" => {}
                    _ => lift(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(lift),
        _ => {}
    }
}

/// A check as it stands in the report, and what people said about it.
fn check_view() -> Value {
    let schema: Value = serde_json::from_str(schema::SCHEMA).unwrap_or_default();
    let mut members = schema["$defs"]["check"]["properties"].clone();
    lift(&mut members);
    if let Some(members) = members.as_object_mut() {
        members.insert("acknowledgeable".into(), json!({ "type": "boolean" }));
        let one = component("Acknowledgement");
        members.insert("acknowledgement".into(), or_null(one.clone()));
        members.insert("history".into(), list(one));
    }
    object(
        "A check as it stands in the report, and what people said about it.",
        members,
    )
}
