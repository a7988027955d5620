//! The OpenAPI document by itself: every reference leads somewhere, every example is a valid one.

use crate::api::scene::DOCUMENT;
use serde_json::{Value, json};

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
