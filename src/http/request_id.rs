//! The id of a request: in its answer, its log line, and its entry of the audit trail.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that a caller gives.
const LENGTH: usize = 64;

/// The id of a request, at most 64 characters that may stand in a log.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl RequestId {
    /// Returns a random one.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Returns the caller's own id if it may stand in a log, else a fresh one.
    pub fn of(request: &Request) -> Self {
        let given = request.headers().get(HEADER);
        let given = given.and_then(|value| value.to_str().ok());
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        given
            .filter(|id| (1..=LENGTH).contains(&id.len()) && id.bytes().all(allowed))
            .map_or_else(Self::fresh, |id| Self(id.to_owned()))
    }

    /// Adds it to the answer.
    pub fn add_to(&self, response: &mut Response) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            response.headers_mut().insert(HEADER, value);
        }
    }
}
