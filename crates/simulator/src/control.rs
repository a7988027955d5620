//! What only a simulator has: health, counters, the list of scenarios, certificates, tokens.

use super::calls::{Calls, Endpoint};
use super::federation::FEDERATED_SUBJECT;
use super::scenario::{Expectation, Scenario};
use super::state::Simulated;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
pub(super) struct Listed {
    number: u16,
    name: &'static str,
    tenant_id: String,
    description: &'static str,
    expectation: Expectation,
    aadsts_codes: Vec<u32>,
}

pub(super) async fn scenarios() -> Json<Vec<Listed>> {
    Json(
        Scenario::ALL
            .iter()
            .map(|scenario| Listed {
                number: scenario.number(),
                name: scenario.name(),
                tenant_id: scenario.tenant_id(0),
                description: scenario.description(),
                expectation: scenario.expectation(),
                aadsts_codes: scenario.codes(),
            })
            .collect(),
    )
}

pub(super) async fn calls(
    State(shared): State<Arc<Simulated>>,
    Path(tenant): Path<String>,
) -> Json<Calls> {
    Json(shared.tenants().calls(&tenant.to_ascii_lowercase()))
}

/// Registers the certificate in the body.
pub(super) async fn register(State(shared): State<Arc<Simulated>>, pem: String) -> Response {
    match shared.certificates.register(&pem) {
        Ok(thumbprint) => {
            (StatusCode::CREATED, Json(json!({"x5t#S256": thumbprint}))).into_response()
        }
        Err(error) => {
            let body = json!({"error": error.to_string()});
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ForWhom {
    subject: Option<String>,
}

/// A token of the external issuer, as the text that a projected token file holds.
pub(super) async fn federated_token(
    State(shared): State<Arc<Simulated>>,
    Query(ForWhom { subject }): Query<ForWhom>,
) -> Response {
    let subject = subject.as_deref().unwrap_or(FEDERATED_SUBJECT);
    match shared.federation.issue(subject, shared.now()) {
        Ok(token) => token.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Nobody should come here: whoever does has followed a redirect or a foreign link.
pub(super) async fn trap(
    State(shared): State<Arc<Simulated>>,
    Path(tenant): Path<String>,
) -> Response {
    shared
        .tenants()
        .count(&tenant.to_ascii_lowercase(), Endpoint::Trap);
    let body = json!({"error": {"code": "Trap", "message": "This link should not be followed."}});
    (StatusCode::IM_A_TEAPOT, Json(body)).into_response()
}
