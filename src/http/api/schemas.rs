//! The schemas of answers, for the OpenAPI document: those of the view model as it derives them, and the
//! published one of the report.
//!
//! `tests/system/api` holds every answer against them. An answer of the view has every member and no other one, so
//! that none is forgotten.

use crate::domain::acknowledgement::Surface;
use crate::domain::audit::{AuditAction, AuditObject};
use crate::domain::connection::ConnectionStatus;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::report::diff::Change;
use crate::domain::report::{Check, Overall, schema};
use crate::domain::run::{Outcome, RunStatus};
use crate::view::acknowledgement::Standing;
use crate::view::diff::DiffState;
use crate::view::{OnboardingView, RunDetail};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{OpenApi, PartialSchema, ToSchema};

/// Where schemas stand in the document.
const PLACE: &str = "#/components/schemas/";
/// The schema of a check of a report.
const CHECK: &str = "VerificationReport_check";

macro_rules! names {
    ($($type:ident),+ $(,)?) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|one| one.as_str())))
                    .build()
                    .into()
            }
        }
        impl ToSchema for $type {}
    )+};
}

names! {
    AuditAction, AuditObject, Change, ConnectionStatus, DiffState, ExpirySource, Outcome, Overall,
    RunStatus, Standing, Surface,
}

/// A check is what the published schema says of it.
impl PartialSchema for Check {
    fn schema() -> RefOr<Schema> {
        Ref::from_schema_name(CHECK).into()
    }
}

impl ToSchema for Check {
    fn name() -> Cow<'static, str> {
        CHECK.into()
    }
}

/// What answers are made of, with all that is in it.
#[derive(OpenApi)]
#[openapi(components(schemas(RunDetail, OnboardingView)))]
struct Answers;

/// The schemas of the view and of the report, by name.
pub fn components() -> Map<String, Value> {
    let mut all = schemas_of(json!(Answers::openapi()));
    all.extend(report());
    let names: Vec<String> = all.keys().cloned().collect();
    for name in names
        .iter()
        .filter(|name| !name.starts_with("VerificationReport"))
    {
        let mut schema = all[name].clone();
        close(&mut schema, &all);
        all.insert(name.clone(), schema);
    }
    all
}

/// Takes the schemas out of a document.
pub fn schemas_of(mut document: Value) -> Map<String, Value> {
    match document["components"]["schemas"].take() {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

/// Requires every member of an object: what is not known is null.
pub fn require_all(schema: &mut Value) {
    if let Some(members) = schema["properties"].as_object() {
        let names: Vec<&String> = members.keys().collect();
        schema["required"] = json!(names);
    }
}

/// Makes one object of what is composed of several, requires all of its members, and allows no others.
fn close(schema: &mut Value, all: &Map<String, Value>) {
    if let Some(Value::Array(parts)) = schema.as_object_mut().and_then(|s| s.remove("allOf")) {
        let mut members = Map::new();
        for part in parts {
            let name = part["$ref"].as_str().and_then(|at| at.strip_prefix(PLACE));
            let part = name.and_then(|name| all.get(name)).unwrap_or(&part);
            members.extend(part["properties"].as_object().cloned().unwrap_or_default());
        }
        schema["type"] = json!("object");
        schema["properties"] = json!(members);
    }
    let Some(parts) = schema.as_object_mut() else {
        return;
    };
    if parts.contains_key("properties") {
        parts.insert("additionalProperties".to_owned(), json!(false));
        for member in parts["properties"].as_object_mut().into_iter().flatten() {
            close(member.1, all);
        }
        require_all(schema);
        return;
    }
    // The tag of an alternative.
    if let Some([name]) = parts
        .get("enum")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        *schema = json!({ "const": name });
        return;
    }
    for alternative in parts
        .get_mut("oneOf")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        close(alternative, all);
    }
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
                            *target = format!("{PLACE}VerificationReport_{definition}");
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
