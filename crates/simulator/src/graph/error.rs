//! Graph's errors, and the headers of all its answers.

use super::authorize::opened_by;
use crate::calls::Endpoint;
use crate::state::Simulated;
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Whom a refusal is about.
pub(super) const THROTTLE_SCOPE: HeaderName = HeaderName::from_static("x-ms-throttle-scope");

/// One error.
#[derive(Debug)]
pub(crate) struct GraphError {
    status: u16,
    code: &'static str,
    message: String,
    /// The message is itself JSON, with this id in it.
    nested: bool,
    retry_after: Option<Duration>,
    /// `x-ms-throttle-scope`: whom the refusal is about.
    scope: Option<String>,
    /// It asks for a token with other claims.
    challenge: bool,
}

impl GraphError {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            nested: false,
            retry_after: None,
            scope: None,
            challenge: false,
        }
    }

    /// As Intune reports errors: JSON within the message.
    pub(crate) fn intune(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            nested: true,
            ..Self::new(status, code, message)
        }
    }

    pub(crate) fn too_many_requests() -> Self {
        Self::new(429, "TooManyRequests", "Too many requests.")
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    pub(super) fn scope(self, scope: String) -> Self {
        Self {
            scope: Some(scope),
            ..self
        }
    }

    pub(crate) fn invalid_token(why: &str) -> Self {
        Self::new(
            401,
            "InvalidAuthenticationToken",
            format!("Access token validation failure. {why}"),
        )
    }

    /// Continuous access evaluation does not accept the token any more.
    pub(crate) fn claims_challenge() -> Self {
        Self {
            challenge: true,
            ..Self::new(
                401,
                "InvalidAuthenticationToken",
                "Continuous access evaluation resulted in challenge with result: \
                 InteractionRequired and code: LocationConditionEvaluationSatisfied",
            )
        }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            404,
            "Request_ResourceNotFound",
            format!(
                "Resource '{what}' does not exist or one of its queried references is missing."
            ),
        )
    }

    /// Intune's refusal, which names the roles that would have opened the endpoint.
    pub(crate) fn intune_forbidden(endpoint: Endpoint) -> Self {
        let wanted: Vec<&str> = opened_by(endpoint).iter().map(|role| role.name).collect();
        Self::intune(
            403,
            "Forbidden",
            format!(
                "Application is not authorized to perform this operation. Application must have \
                 one of the following scopes: {}",
                wanted.join(", ")
            ),
        )
    }

    pub(super) fn denied() -> Self {
        let message = "Insufficient privileges to complete the operation.";
        Self::new(403, "Authorization_RequestDenied", message)
    }

    pub(super) fn identity_not_found() -> Self {
        Self::new(
            401,
            "Authorization_IdentityNotFound",
            "The identity of the calling application could not be established.",
        )
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn answer(&self, shared: &Simulated, request: &HeaderMap) -> Response {
        let ids = Ids::of(request);
        let message = if self.nested {
            nested(&self.message, &ids.request)
        } else {
            self.message.clone()
        };
        let body = json!({
            "error": {
                "code": self.code,
                "message": message,
                "innerError": {
                    "date": (shared.clock)().format("%Y-%m-%dT%H:%M:%S").to_string(),
                    "request-id": ids.request,
                    "client-request-id": ids.client,
                },
            },
        });
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = with_headers(status, body, &ids);
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                headers.insert(header::RETRY_AFTER, value);
            }
        }
        if let Some(scope) = &self.scope
            && let Ok(scope) = HeaderValue::try_from(scope)
        {
            headers.insert(THROTTLE_SCOPE, scope);
        }
        if self.status == 401 {
            let claims = match self.challenge {
                true => ", error=\"insufficient_claims\", claims=\"eyJhY2Nlc3NfdG9rZW4iOnt9fQ==\"",
                false => "",
            };
            let challenge = format!(
                "Bearer realm=\"\", authorization_uri=\"{}/common/oauth2/authorize\"{claims}",
                shared.origin
            );
            if let Ok(challenge) = HeaderValue::try_from(challenge) {
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        response
    }
}

/// The JSON that Intune puts into a message.
fn nested(message: &str, request_id: &str) -> String {
    let inner = json!({
        "_version": 3,
        "Message": format!(
            "{message} - Operation ID (for customer support): {} - Activity ID: {request_id}",
            Uuid::nil()
        ),
        "CustomApiErrorPhrase": "",
        "RetryAfter": null,
        "ErrorSourceService": "",
        "HttpHeaders": "{}",
    });
    serde_json::to_string_pretty(&inner)
        .unwrap_or_default()
        .replace('\n', "\r\n")
}

/// The ids of one request.
struct Ids {
    request: String,
    client: String,
}

impl Ids {
    /// Graph's own id, and the caller's; where the caller has none, Graph's again.
    fn of(request: &HeaderMap) -> Self {
        let own = Uuid::new_v4().to_string();
        let client = request
            .get("client-request-id")
            .and_then(|value| value.to_str().ok())
            .filter(|value| Uuid::parse_str(value).is_ok())
            .map_or_else(|| own.clone(), str::to_owned);
        Self {
            request: own,
            client,
        }
    }
}

/// The answer that tells what was asked for.
pub(super) fn found(body: Value, request: &HeaderMap) -> Response {
    with_headers(StatusCode::OK, body, &Ids::of(request))
}

fn with_headers(status: StatusCode, body: Value, ids: &Ids) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(
            "application/json;odata.metadata=minimal;odata.streaming=true;\
             IEEE754Compatible=false;charset=utf-8",
        ),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    headers.insert("odata-version", HeaderValue::from_static("4.0"));
    for (name, id) in [
        ("request-id", &ids.request),
        ("client-request-id", &ids.client),
    ] {
        if let Ok(value) = HeaderValue::from_str(id) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
