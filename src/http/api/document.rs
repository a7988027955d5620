//! The OpenAPI document, generated from the routes.

use super::problem::{Kind, TYPE};
use super::{PREFIX, schemas};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::LazyLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(super::problem::ProblemBody, super::problem::FieldError)))]
struct Problems;

/// OpenAPI 3.1, all of it.
pub fn document() -> Value {
    let (_, routes) = super::routes().split();
    let mut document = json!(routes);
    let mut all = schemas::components();
    all.extend(schemas::schemas_of(json!(Problems::openapi())));
    for (name, mut schema) in schemas::schemas_of(document.clone()) {
        // A body of a request is closed, and says itself what it needs.
        if schema["additionalProperties"].is_null() {
            schemas::require_all(&mut schema);
        }
        all.entry(name).or_insert(schema);
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        let under = |(path, item): (String, Value)| (format!("{PREFIX}{path}"), item);
        *paths = std::mem::take(paths).into_iter().map(under).collect();
    }
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "verifyd",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "Whether provider connections really work",
        "description": "Start checks, read runs and reports, acknowledge. docs/reference/api.md explains it.",
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["components"] = json!({
        "schemas": all,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "vfd_…",
                "description": "`verifyd tokens create --name NAME --scope SCOPE` makes a token. `x-scope` of an operation names the scope it needs.",
            },
        },
    });
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .map(|k| format!("{TYPE}{}", k.name()))
        .collect();
    document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"] = json!(kinds);
    tidy(&mut document);
    name_items(&mut document["components"]["schemas"]);
    // What became a part of something else.
    let text = document.to_string();
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| text.contains(&format!("/schemas/{name}\"")));
    }
    document
}

/// Refers to the schemas of a page's rows by their names: a generated client then has one type for
/// them, however they are read.
fn name_items(schemas: &mut Value) {
    let Some(schemas) = schemas.as_object_mut() else {
        return;
    };
    let names: Vec<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas {
        let of = name
            .strip_prefix("Page_")
            .filter(|of| names.iter().any(|n| n == of));
        if let Some(of) = of {
            schema["properties"]["items"]["items"] =
                json!({ "$ref": format!("#/components/schemas/{of}") });
        }
    }
}

/// Takes out what says nothing, or nothing true.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| !(name == "description" && value == ""));
            // A parameter that may be left out is never null.
            if members.contains_key("in")
                && let Some(kind) = members.get_mut("schema").and_then(|s| s.get_mut("type"))
                && let Some([kind_of_value, _]) = kind.as_array().map(Vec::as_slice)
            {
                *kind = kind_of_value.clone();
            }
            // A body that may be left out is never null either: a generated client would have to
            // be given one.
            if let Some(Value::Object(body)) = members.get_mut("requestBody")
                && body.get("required") != Some(&Value::Bool(true))
                && let Some(schema) = body
                    .get_mut("content")
                    .and_then(|c| c.get_mut("application/json"))
                && let Some([one, _]) = schema["schema"]["oneOf"].as_array().map(Vec::as_slice)
            {
                schema["schema"] = one.clone();
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "api",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub async fn read_document(_: super::input::Query<super::input::Nothing>) -> Response {
    // Anybody may ask for it, and need not read it: all answers share its bytes.
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    let mut response = Response::new(Body::from(DOCUMENT.clone()));
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let public = HeaderValue::from_static("public, max-age=300");
    headers.insert(header::CACHE_CONTROL, public);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::input::{Nothing, Query};
    use axum::body::to_bytes;

    #[tokio::test]
    async fn answers_share_the_bytes_of_the_document() {
        let read = async || {
            let answer = read_document(Query(Nothing)).await;
            to_bytes(answer.into_body(), usize::MAX).await
        };
        let (one, other) = (read().await, read().await);
        let (one, other) = (one.expect("in memory"), other.expect("in memory"));
        assert_eq!(one.as_ptr(), other.as_ptr());
    }
}
