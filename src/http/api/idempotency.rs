//! `Idempotency-Key`: whatever is asked again under the same key is answered again, not done again.

use super::Api;
use super::auth::Caller;
use super::problem::{Kind, Problem};
use super::{json, problem};
use crate::domain::token::sha256_hex;
use crate::http::panics;
use crate::ports::access::{AnswerSubject, Reserved};
use crate::ports::traces;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a key.
const LENGTH: usize = 255;
/// How long the answer to a key is kept: a client that asks again later has most likely forgotten the first time.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// A reservation without an answer for so long was left behind by a process that ended.
const ABANDONED: Duration = Duration::from_secs(60);
/// How long an answer that another request makes usually takes.
const RETRY: Duration = Duration::from_secs(1);

/// What a request that changes something is answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    pub body: Value,
    /// The row that it is about.
    pub subject: AnswerSubject,
}

/// The key of a request, and what the request is.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    key: Option<String>,
    target: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotentRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut given = parts.headers.get_all(KEY).iter();
        let key = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(value), None) => Some(valid(value).ok_or_else(wrong)?),
            (Some(_), Some(_)) => return Err(wrong()),
        };
        Ok(Self {
            key,
            target: format!("{} {}", parts.method, parts.uri.path()),
        })
    }
}

fn valid(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    (visible && (1..=LENGTH).contains(&text.len())).then(|| text.to_owned())
}

fn wrong() -> Problem {
    Problem::field(
        Kind::InvalidHeader,
        "Idempotency-Key",
        "is not allowed",
        format!("one header of 1 to {LENGTH} visible ASCII characters"),
    )
}

impl IdempotentRequest {
    /// Does the work unless it was done under this key. It is finished even when the caller hangs up.
    pub async fn answer<W>(
        self,
        api: &Arc<Api>,
        caller: &Caller,
        body: &[u8],
        work: W,
    ) -> Result<Response, Problem>
    where
        W: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        let request = format!("{}\n{}", self.target, String::from_utf8_lossy(body));
        let request = sha256_hex(&request);
        let (api, token) = (Arc::clone(api), caller.id());
        let span = tracing::Span::current();
        let done = async move {
            let Some(key) = self.key else {
                return work.await?.into_response();
            };
            let reserved = api
                .store
                .reserve_key(token, &key, &request, ABANDONED, KEPT)
                .await?;
            match reserved {
                Reserved::First => {}
                Reserved::InProgress => {
                    let detail = "Another request with this Idempotency-Key is being answered.";
                    return Err(Problem::new(Kind::InProgress, detail).retry_after(RETRY));
                }
                Reserved::Mismatch => {
                    let detail = "This Idempotency-Key was used for another request.";
                    return Err(Problem::new(Kind::KeyReused, detail));
                }
                Reserved::Answered { status, body } => return replayed(status, &body),
            }
            match work.await {
                Ok(answer) => {
                    let kept = json!({ "location": answer.location, "body": answer.body });
                    let (status, kept) = (answer.status.as_u16(), kept.to_string());
                    // It is done. Whoever asks again finds the key abandoned, and what was done.
                    let subject = answer.subject;
                    let keep = api.store.answer_key(token, &key, status, &kept, subject);
                    if let Err(error) = keep.await {
                        tracing::warn!(%error, "the answer to an idempotency key is not kept");
                    }
                    answer.into_response()
                }
                Err(problem) => {
                    if let Err(error) = api.store.release_key(token, &key).await {
                        tracing::warn!(%error, "an idempotency key is not released");
                    }
                    Err(problem)
                }
            }
        };
        let done = traces::in_current(tracing::Instrument::instrument(done, span));
        let done = tokio::spawn(done);
        done.await.unwrap_or_else(|_| {
            panics::count();
            Err(Problem::new(Kind::Defect, "The work on it panicked."))
        })
    }
}

impl Answer {
    /// What was made by this request, or was there before.
    pub fn made(
        created: bool,
        location: String,
        body: &impl Serialize,
        subject: AnswerSubject,
    ) -> Result<Self, Problem> {
        Ok(Self {
            status: if created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            },
            location: Some(location),
            ..Self::of(body, subject)?
        })
    }

    /// What was changed by this request.
    pub fn of(body: &impl Serialize, subject: AnswerSubject) -> Result<Self, Problem> {
        Ok(Self {
            status: StatusCode::OK,
            location: None,
            body: serde_json::to_value(body)
                .map_err(|_| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?,
            subject,
        })
    }

    fn into_response(self) -> Result<Response, Problem> {
        response(self.status, self.location.as_deref(), &self.body)
    }
}

fn response(status: StatusCode, location: Option<&str>, body: &Value) -> Result<Response, Problem> {
    let mut response = json(status, body)?;
    if let Some(location) = location {
        let value = HeaderValue::from_str(location)
            .map_err(|_| problem::Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

fn replayed(status: u16, kept: &str) -> Result<Response, Problem> {
    let defect = || Problem::new(Kind::Defect, "The kept answer cannot be read.");
    let status = StatusCode::from_u16(status).map_err(|_| defect())?;
    let kept: Value = serde_json::from_str(kept).map_err(|_| defect())?;
    let mut response = response(status, kept["location"].as_str(), &kept["body"])?;
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
