//! Entra's answers: their bodies and headers.

use super::error::EntraError;
use crate::state::Simulated;
use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use uuid::Uuid;

/// A refusal of one request.
pub(crate) struct Refusal {
    pub error: &'static EntraError,
    /// What it is about, from the request.
    detail: Option<String>,
}

impl From<&'static EntraError> for Refusal {
    fn from(error: &'static EntraError) -> Self {
        Self {
            error,
            detail: None,
        }
    }
}

impl Refusal {
    /// With what it is about. Never a credential.
    pub(super) fn with(error: &'static EntraError, detail: &str) -> Self {
        Self {
            error,
            detail: Some(detail.chars().take(100).collect()),
        }
    }
}

/// The answer that carries a token.
pub(super) fn issued(shared: &Simulated, token: &str, request: &HeaderMap) -> Response {
    let lifetime = shared.options.token_lifetime.as_secs();
    let body = json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": token,
    });
    answer(StatusCode::OK, body, Uuid::new_v4(), correlation(request))
}

/// The answer that says why there is no token.
pub(crate) fn refused(shared: &Simulated, refusal: &Refusal, request: &HeaderMap) -> Response {
    let EntraError {
        code,
        error,
        status,
        text,
        ..
    } = refusal.error;
    let trace = Uuid::new_v4();
    let correlation = correlation(request);
    let timestamp = (shared.clock)().format("%Y-%m-%d %H:%M:%SZ").to_string();
    let detail = match &refusal.detail {
        Some(detail) => format!(" ('{detail}')"),
        None => String::new(),
    };
    let body = json!({
        "error": error,
        "error_description": format!(
            "AADSTS{code}: {text}{detail} Trace ID: {trace} Correlation ID: {correlation} \
             Timestamp: {timestamp}"
        ),
        "error_codes": [code],
        "timestamp": timestamp,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("{}/error?code={code}", shared.origin),
    });
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
    answer(status, body, trace, correlation)
}

/// The caller's own id of the request, or a fresh one.
fn correlation(request: &HeaderMap) -> Uuid {
    request
        .get("client-request-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| Uuid::parse_str(value).ok())
        .unwrap_or_else(Uuid::new_v4)
}

fn answer(status: StatusCode, body: Value, trace: Uuid, correlation: Uuid) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-cache"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    for (name, id) in [
        ("x-ms-request-id", trace),
        ("client-request-id", correlation),
    ] {
        if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(name, value);
        }
    }
    response
}
