//! The published schema of module files, built from the rules of the reader.

use super::rules;
use crate::domain::Reason;
use serde_json::{Value, json};

/// Returns the JSON Schema (draft 2020-12) of a module's file, for the JSON equivalent of its TOML. The
/// reader requires more: one of the module's own permissions for a probe, unique keys, and a path and query
/// of narrower form.
pub fn schema() -> Value {
    let text = |most: usize| json!({ "type": "string", "minLength": 1, "maxLength": most });
    let matching = |pattern: &str, most: usize| json!({ "type": "string", "minLength": 1, "maxLength": most, "pattern": pattern });
    let value = json!({ "oneOf": [
        matching(rules::VALUE_PATTERN, rules::VALUE),
        { "type": "boolean" },
        { "type": "integer" },
    ]});
    let values = json!({ "type": "array", "items": value, "maxItems": rules::VALUES });
    let parameters = rules::PARAMETERS
        .map(|name| name.replace('$', "\\$"))
        .join("|");
    let query = format!("^({parameters})=[^&#]+(&({parameters})=[^&#]+)*$");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "verifyd module",
        "description": "What a connection is checked for: the permissions that it needs, and calls that show \
                        that its services answer. A module file is this as TOML.",
        "type": "object",
        "additionalProperties": false,
        "required": ["key", "title", "permissions"],
        "properties": {
            "key": with(matching(rules::KEY_PATTERN, rules::KEY),
                "Name of the module, as context.module and connections have it"),
            "title": with(text(rules::TITLE), "Name for people"),
            "excess": {
                "description": "What granted permissions that no module needs do: info lists them, warn makes \
                                the report need attention",
                "enum": ["info", "warn"], "default": "info",
            },
            "permissions": {
                "type": "array", "minItems": 1, "maxItems": rules::PERMISSIONS,
                "items": { "$ref": "#/$defs/permission" },
            },
            "probes": {
                "type": "array", "maxItems": rules::PROBES, "items": { "$ref": "#/$defs/probe" },
            },
        },
        "$defs": {
            "permission": {
                "type": "object", "additionalProperties": false, "required": ["role", "needed_for"],
                "properties": {
                    "role": with(matching(rules::ROLE_PATTERN, rules::ROLE),
                        "Name of the application role on its resource"),
                    "resource": with(matching(rules::GUID_PATTERN, 36),
                        "App id of the API that offers the role; Microsoft Graph if absent"),
                    "app_role_id": with(matching(rules::GUID_PATTERN, 36),
                        "Id of the role, where it is known; else it is read from the resource"),
                    "needed_for": with(text(rules::NEEDED_FOR),
                        "What does not work without it, as the end of \"without it, …\""),
                    "blocking": { "description": "Without it the module cannot work at all",
                        "type": "boolean", "default": false },
                    "satisfied_by": {
                        "description": "Roles of the same resource that include this one, the least privileged \
                                        first",
                        "type": "array", "maxItems": rules::SATISFIED_BY, "uniqueItems": true,
                        "items": matching(rules::ROLE_PATTERN, rules::ROLE),
                    },
                },
            },
            "probe": {
                "type": "object", "additionalProperties": false,
                "required": ["key", "title", "path", "permission", "expect"],
                "properties": {
                    "key": {
                        "description": "Key of the check",
                        "type": "string", "maxLength": rules::PROBE_KEY,
                        "pattern": rules::PROBE_KEY_PATTERN,
                        "not": { "pattern": format!("^({})\\.", rules::RESERVED.join("|")) },
                    },
                    "title": with(text(rules::TITLE), "Title of the check"),
                    "path": with(matching(rules::PATH_PATTERN, rules::PATH),
                        "Path on Microsoft Graph; it is asked for with GET"),
                    "query": with(matching(&query, rules::QUERY), "Query, without the question mark"),
                    "permission": with(matching(rules::ROLE_PATTERN, rules::ROLE),
                        "Role of the module's permission on Microsoft Graph that the call needs"),
                    "blocking": { "description": "A failure makes the report blocked",
                        "type": "boolean", "default": false },
                    "expect": { "oneOf": [
                        { "enum": ["object", "list", "not_empty"] },
                        {
                            "type": "object", "additionalProperties": false, "required": ["member"],
                            "properties": {
                                "member": matching(rules::VALUE_PATTERN, rules::VALUE),
                                "equals": value,
                                "one_of": with(values.clone(), "Values that pass"),
                                "tolerated": with(values, "Values that warn"),
                            },
                            "oneOf": [{ "required": ["equals"] }, { "required": ["one_of"] }],
                        },
                    ]},
                    "reason": {
                        "description": "Reason of the failure where the answer is not the expected one",
                        "enum": rules::REASONS.map(Reason::code),
                        "default": rules::REASONS[0].code(),
                    },
                },
            },
        },
    })
}

fn with(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}
