//! Errors as RFC 9457 problem details.

use crate::domain::names::UnknownName;
use crate::http::rate_limit::whole_seconds;
use crate::http::reads::is_of_replica;
use crate::operations::OperationError;
use crate::ports::store::StoreError;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// `type` of a problem: this and its name. docs/reference/api.md explains each.
pub const TYPE: &str = "urn:verifyd:problem:";

/// How long to wait where nothing better is known.
const RETRY: Duration = Duration::from_secs(2);

macro_rules! kinds {
    ($($kind:ident $status:ident $name:literal $title:literal;)+) => {
        /// Everything that can be wrong with a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($kind),+ }

        impl Kind {
            /// All of them, for the documentation.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status),+ }
            }

            /// The last part of `type`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title),+ }
            }
        }
    };
}

kinds! {
    InvalidQuery BAD_REQUEST "invalid-query" "The query is not valid";
    InvalidHeader BAD_REQUEST "invalid-header" "A header is not valid";
    MalformedBody BAD_REQUEST "malformed-body" "The body is no JSON object";
    BadRequest BAD_REQUEST "bad-request" "The request is not valid";
    Unauthorized UNAUTHORIZED "unauthorized" "A valid token is needed";
    Forbidden FORBIDDEN "forbidden" "The token does not allow this";
    NotFound NOT_FOUND "not-found" "There is no such resource";
    NoReport NOT_FOUND "no-report" "The run has no report";
    MethodNotAllowed METHOD_NOT_ALLOWED "method-not-allowed" "The resource does not know this method";
    Timeout REQUEST_TIMEOUT "timeout" "The request did not arrive in time";
    InProgress CONFLICT "in-progress" "A request with this key is being answered";
    UnreadableReport CONFLICT "unreadable-report" "The stored report cannot be read";
    Unusable CONFLICT "unusable" "The connection cannot be used";
    NotAcknowledgeable CONFLICT "not-acknowledgeable" "There is nothing to acknowledge";
    TooLarge PAYLOAD_TOO_LARGE "too-large" "The body is too large";
    MediaType UNSUPPORTED_MEDIA_TYPE "media-type" "The body must be application/json";
    InvalidBody UNPROCESSABLE_ENTITY "invalid-body" "The body is not valid";
    KeyReused UNPROCESSABLE_ENTITY "key-reused" "The key was used for another request";
    RateLimited TOO_MANY_REQUESTS "rate-limited" "Too many requests";
    Defect INTERNAL_SERVER_ERROR "defect" "verifyd failed";
    Unavailable SERVICE_UNAVAILABLE "unavailable" "Not possible right now";
}

/// What is wrong with one member, parameter or header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    pub problem: String,
    /// What is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// An error, before it is known for which path it is.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after: Option<Duration>,
    pub authenticate: Option<String>,
}

/// An error as it is answered: `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:verifyd:problem:invalid-query",
    "title": "The query is not valid",
    "status": 400,
    "detail": "limit: is not allowed",
    "instance": "/v1/runs",
    "request_id": "01f0c7",
    "errors": [{
        "field": "limit",
        "problem": "is not allowed",
        "allowed": "a whole number from 1 to 200",
    }],
}))]
pub struct ProblemBody {
    /// `urn:verifyd:problem:` and a name from docs/reference/api.md.
    #[serde(rename = "type")]
    #[schema(example = "urn:verifyd:problem:not-found")]
    pub kind: String,
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, for people.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// The same as in the header `X-Request-Id` and in the log.
    pub request_id: String,
    /// What is wrong with the input, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            authenticate: None,
        }
    }

    /// Input that is not valid.
    pub fn invalid(kind: Kind, errors: Vec<FieldError>) -> Self {
        let what: Vec<String> = errors
            .iter()
            .map(|e| format!("{}: {}", e.field, e.problem))
            .collect();
        Self {
            errors,
            ..Self::new(kind, what.join("; "))
        }
    }

    /// One member that is not valid.
    pub fn field(kind: Kind, field: &str, problem: &str, allowed: impl Into<String>) -> Self {
        Self::invalid(kind, vec![FieldError::new(field, problem, allowed)])
    }

    /// The same for what does not exist and for what is out of the token's reach.
    pub fn not_found() -> Self {
        Self::new(
            Kind::NotFound,
            "There is nothing here, or it is out of the token's reach.",
        )
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// For an answer that some layer below made without a body.
    pub fn of_status(status: StatusCode) -> Self {
        let kind = Kind::ALL
            .iter()
            .copied()
            .filter(|kind| !matches!(kind, Kind::InvalidQuery | Kind::InvalidHeader))
            .find(|kind| kind.status() == status)
            .unwrap_or(if status.is_server_error() {
                Kind::Defect
            } else {
                Kind::BadRequest
            });
        let kind = if kind == Kind::MalformedBody {
            Kind::BadRequest
        } else {
            kind
        };
        Self::new(kind, kind.title())
    }

    /// The whole answer.
    pub fn render(&self, instance: &str, request_id: &str) -> Response {
        let body = ProblemBody {
            kind: format!("{TYPE}{}", self.kind.name()),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(authenticate) = &self.authenticate
            && let Ok(value) = HeaderValue::from_str(authenticate)
        {
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

impl FieldError {
    pub fn new(field: &str, problem: &str, allowed: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.to_owned(),
            allowed: Some(allowed.into()),
        }
    }

    pub fn unknown_name(field: &str, error: &UnknownName) -> Self {
        Self::new(field, "is not known", error.allowed)
    }
}

/// The problem travels beside an empty answer; [`super::finish`] writes the body.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let is_final = !is_of_replica(&error);
        let lacks = error.lacks();
        if error.is_transient() && lacks.is_none() {
            if is_final {
                tracing::warn!(%error, "a request needs the database");
            }
            return Self::new(
                Kind::Unavailable,
                "The database does not answer or is busy. Try again.",
            )
            .retry_after(RETRY);
        }
        // What the database said is for the log: it may name what is none of the caller's business.
        if is_final {
            tracing::error!(%error, "a request failed");
        }
        if let Some(lacks) = lacks {
            let detail = format!("{lacks}; the log says why, under this request's id.");
            return Self::new(Kind::Unavailable, detail).retry_after(RETRY);
        }
        Self::new(
            Kind::Defect,
            "The database refused; the log says why, under this request's id.",
        )
    }
}

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        let said = error.to_string();
        match error {
            OperationError::Store(error) => error.into(),
            OperationError::Vault(_) | OperationError::NoRandomness(_) => {
                tracing::error!(error = said, "a request failed");
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            OperationError::NotFound { .. } => Self::not_found(),
            OperationError::Unusable { .. } => Self::new(Kind::Unusable, said),
            OperationError::NotAcknowledgeable { .. } => Self::new(Kind::NotAcknowledgeable, said),
            OperationError::Invalid {
                field,
                problem,
                allowed,
            } => {
                let field = field.to_owned();
                let error = FieldError {
                    field,
                    problem,
                    allowed,
                };
                Self::invalid(Kind::InvalidBody, vec![error])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Detail, Origin};

    #[test]
    fn what_the_database_lacks_is_no_defect() {
        let unavailable = |lacks: &str| {
            let detail = format!("{lacks}; the log says why, under this request's id.");
            (Kind::Unavailable, detail, Some(RETRY))
        };
        let problem = |error: StoreError| {
            let problem = Problem::from(error);
            (problem.kind, problem.detail, problem.retry_after)
        };
        let denied = "permission denied for schema verifyd (SQLSTATE 42501)";
        assert_eq!(
            problem(StoreError::Refused(Detail::said(denied))),
            unavailable("The database denies verifyd a privilege")
        );
        assert_eq!(
            problem(StoreError::Schema("column x is missing".into())),
            unavailable("The database's schema does not fit")
        );
        for rule in [
            "duplicate key (SQLSTATE 23505)",
            "a quota (SQLSTATE P0001)",
            "a quota (SQLite 1811)",
        ] {
            assert_eq!(
                problem(StoreError::Refused(Detail::said(rule))),
                unavailable("The database refuses this to verifyd")
            );
        }
        let raised = Detail {
            origin: Some(Origin::Function),
            ..Detail::said("not today (SQLSTATE 55P03)")
        };
        assert_eq!(
            problem(StoreError::Contended(raised)),
            unavailable("The database refuses this to verifyd")
        );
        let refused = Detail::said("a value does not fit (SQLSTATE 22001)");
        assert_eq!(problem(StoreError::Refused(refused)).0, Kind::Defect);
    }
}
