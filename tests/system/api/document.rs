//! The OpenAPI document by itself: every reference leads somewhere, every example is a valid one.

use crate::api::scene::DOCUMENT;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use verifyd::domain::ConnectionId;
use verifyd::ports::overview::{ConnectionCursor, ExpiryKey};

/// Every place where a reference stands.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get("$ref") {
                found.push(target.clone());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut found = Vec::new();
    references(&DOCUMENT, &mut found);
    assert!(found.len() > 30, "only {} references", found.len());
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(DOCUMENT.pointer(pointer).is_some(), "{target}");
    }
}

#[test]
fn every_schema_is_one_and_every_example_is_valid() {
    let mut examples = 0;
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        let whole = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": DOCUMENT["components"],
        });
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&whole)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let many = schema["examples"].as_array().into_iter().flatten();
        for example in many.chain(schema.get("example")) {
            examples += 1;
            let errors: Vec<String> = validator
                .iter_errors(example)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{name}: {}", errors.join("; "));
        }
    }
    assert!(examples >= 7, "only {examples} examples");
}

#[test]
fn every_operation_says_what_it_needs() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let open = operation["security"] == json!([]);
            assert_eq!(open, operation["x-scope"].is_null(), "{what}");
            assert_eq!(open, path == "/v1/openapi.json", "{what}");
            assert!(operation["summary"].is_string(), "{what}");
            assert!(operation["operationId"].is_string(), "{what}");
        }
    }
}

/// A client may validate what it sends.
#[test]
fn every_cursor_that_verifyd_makes_is_allowed() {
    let parameters = &DOCUMENT["paths"]["/v1/connections"]["get"]["parameters"];
    let mut parameters = parameters.as_array().unwrap().iter();
    let after = parameters.find(|p| p["name"] == "after").unwrap();
    let validator = jsonschema::draft202012::options()
        .build(&after["schema"])
        .unwrap();
    let last = ConnectionId(i64::MAX);
    let at = |time: &str| {
        let time: DateTime<Utc> = time.parse().unwrap();
        ConnectionCursor::Expiry(ExpiryKey(time.timestamp_micros()), last)
    };
    for cursor in [
        ConnectionCursor::Id(ConnectionId(1)),
        ConnectionCursor::Id(last),
        ConnectionCursor::Id(ConnectionId(i64::MIN)),
        ConnectionCursor::Expiry(ExpiryKey::NEVER, last),
        ConnectionCursor::Expiry(ExpiryKey::NEVER, ConnectionId(-5)),
        at("0001-01-01T00:00:00Z"),
        at("9999-12-31T23:59:59.999999Z"),
    ] {
        let text = cursor.to_string();
        assert!(validator.is_valid(&json!(text)), "{text}");
        assert_eq!(text.parse::<ConnectionCursor>().ok(), Some(cursor));
    }
}
