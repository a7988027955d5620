//! Calls over HTTP with limits on addresses, times, sizes and attempts.

mod backoff;
mod body;
pub(super) mod decoding;
mod intermediary;
mod transport;

pub(super) use body::Body;
pub(super) use intermediary::Intermediary;

use super::cloud::Clouds;
use super::fault::{Fault, Later, LaterCause, Retry};
use super::limiter::{LimitedRequests, ThrottleScope};
use super::settings::MicrosoftSettings;
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use crate::outbound::{Client, Outbound, ProxiedHosts, Resends, Reuse};
use crate::ports::clock::Clock;
use crate::ports::open_calls::OpenCalls;
use crate::ports::traces::{SpanKind, TraceSpan};
use backoff::Backoff;
use http::{HeaderValue, Uri};
use intermediary::Author;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The body and credentials of a request.
pub(super) enum Payload {
    /// A GET with this `Authorization` header.
    Bearer(HeaderValue),
    /// A POST of these form fields.
    Form(Vec<(&'static str, Zeroizing<String>)>),
}

/// One request, made afresh for every attempt.
pub(super) struct Request {
    pub uri: Uri,
    pub payload: Payload,
}

/// Properties that all requests of one check share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// Name of the call in logs and metrics.
    pub call: &'static str,
    /// When the check must have ended.
    pub deadline: Instant,
    /// Sent as `client-request-id`.
    pub correlation_id: Uuid,
    /// Where the call stands until it has a result.
    pub calls: &'a OpenCalls,
    /// The limit of these requests; `None` for those that the provider counts otherwise.
    pub limited: Option<&'a LimitedRequests>,
}

/// An answer within all limits.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub status: u16,
    /// The body, whatever its headers declare: intermediaries change the type, too.
    pub body: Option<Body>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// Whom a refusal is about, where the answer says so.
    pub throttle_scope: Option<ThrottleScope>,
    /// Id that the provider gave to the request.
    pub request_id: Option<Uuid>,
    /// Whether it requires a token with other claims (`WWW-Authenticate`).
    pub challenged: bool,
    /// What its headers say about its author.
    pub author: Author,
    /// The logins that it requires.
    pub login: Login,
}

/// The logins that an answer requires (`WWW-Authenticate`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Login {
    #[default]
    None,
    /// A token, as the provider does.
    Token,
    /// Only others, such as `Negotiate` or `Basic`, which the provider does not use.
    Other,
}

impl Answer {
    /// Whether it has a body that is more than blanks.
    pub fn has_body(&self) -> bool {
        let body = self.body.as_ref();
        body.is_some_and(|body| !body.bytes().trim_ascii().is_empty())
    }

    /// Returns the body's object, whatever type and encoding it declares; `None` when it has none.
    pub fn object(&self) -> Option<Value> {
        decoding::object(&decoding::decode(self.body.as_ref()?.bytes()))
    }

    /// Who between here and the provider has sent a page with the status of a success.
    pub fn page(&self) -> Option<Intermediary> {
        let body = self.body.as_ref()?.bytes();
        let is_object = body.trim_ascii_start().starts_with(b"{");
        if is_object {
            return None;
        }
        self.author.of_page(body)
    }

    /// Who between here and the provider shows as its author.
    pub fn intermediary(&self) -> Option<Intermediary> {
        let body = self.body.as_ref().map(Body::bytes).unwrap_or_default();
        self.author.intermediary(self.status, body)
    }
}

/// The HTTP client of the provider.
///
/// It requests no compression, so that the counted bytes are the real ones.
pub(super) struct Caller {
    client: Client,
    backoff: Backoff,
    clock: Arc<dyn Clock>,
    request_timeout: Duration,
    read_timeout: Duration,
    max_attempts: u32,
    defer_after: Duration,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("request_timeout", &self.request_timeout)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// Calls the hosts of these clouds, and no others.
    pub fn new(
        settings: &MicrosoftSettings,
        clouds: &Clouds,
        clock: Arc<dyn Clock>,
        outbound: &Outbound,
    ) -> Self {
        Self {
            client: outbound.client(
                clouds.loopback_hosts(),
                ProxiedHosts::Only(clouds.hosts()),
                settings.connect_timeout(),
            ),
            backoff: Backoff {
                base: settings.pauses.first,
                max: settings.pauses.longest,
            },
            clock,
            request_timeout: settings.request_timeout,
            read_timeout: settings.read_timeout(),
            max_attempts: settings.max_attempts_per_request,
            defer_after: settings.defer_after(),
        }
    }

    /// The longest wait that is chosen here.
    pub fn longest_wait(&self) -> Duration {
        self.backoff.max
    }

    /// Sends the request, lets `judge` interpret the answer, and repeats it while the fault allows that and
    /// attempts and time are left.
    pub async fn call<T>(
        &self,
        scope: Scope<'_>,
        mut request: impl FnMut() -> Result<Request, Fault>,
        judge: impl Fn(Answer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let open = scope.calls.begin(scope.call);
        let mut attempt = 1;
        let mut reuse = Reuse::Allowed;
        let mut resends = Resends::default();
        loop {
            let request = request()?;
            let uri = request.uri.clone();
            let host = uri.host().unwrap_or_default();
            if let Some(limited) = scope.limited
                && let Err(fault) = limited.permit(scope.deadline).await
            {
                // This attempt was not made.
                return Err(given_up(fault, attempt - 1, host));
            }
            let span = begin_span(scope, &request, attempt);
            let started = Instant::now();
            let answer = span
                .scope(self.send(reuse, &mut resends, scope, request))
                .await;
            let status = answer
                .as_ref()
                .map_or_else(|fault| fault.status, |a| Some(a.status));
            let throttle_scope = answer.as_ref().ok().and_then(|a| a.throttle_scope);
            let result = answer.and_then(&judge);
            let took = started.elapsed();
            if let Some(limited) = scope.limited {
                note(limited, status, throttle_scope, result.as_ref().err());
            }
            end_span(&span, status, result.as_ref().err());
            span.end();
            record(scope, host, attempt, took, result.as_ref().err());
            let mut fault = match result {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let wait = match self.wait(&mut fault, attempt, scope.deadline) {
                Some(wait) => wait,
                None => return Err(given_up(fault, attempt, host)),
            };
            if fault.status == Some(503) {
                // A gateway may answer on the same connection as before.
                reuse = Reuse::Never;
            }
            attempt += 1;
            open.retry(attempt);
            tokio::time::sleep(wait).await;
        }
    }

    /// Returns the wait before the next attempt; `None` when there is none. A wait that is too long for this
    /// attempt is stored in the fault.
    fn wait(&self, fault: &mut Fault, attempt: u32, deadline: Instant) -> Option<Duration> {
        match fault.retry {
            Retry::Never => return None,
            Retry::Once => return (attempt == 1).then_some(Duration::ZERO),
            Retry::Backoff => {}
        }
        // Zero means no wait; an immediate retry would not help.
        let asked = fault.retry_after.filter(|wait| !wait.is_zero());
        let wait = asked.unwrap_or_else(|| self.backoff.after_attempt(attempt));
        let is_too_long = asked.is_some_and(|wait| wait > self.defer_after);
        let fits = Instant::now() + wait < deadline;
        if !is_too_long && fits && attempt < self.max_attempts {
            return Some(wait);
        }
        if is_too_long || fault.reason == Reason::Throttled {
            fault.later = Some(Box::new(Later {
                wait: wait.max(self.defer_after),
                cause: match is_too_long || (asked.is_some() && !fits) {
                    true => LaterCause::Asked,
                    false => LaterCause::Refused,
                },
            }));
        }
        None
    }

    async fn send(
        &self,
        reuse: Reuse,
        resends: &mut Resends,
        scope: Scope<'_>,
        request: Request,
    ) -> Result<Answer, Fault> {
        let limits = Limits {
            deadline: scope.deadline,
            own: Instant::now() + self.request_timeout,
            read: self.read_timeout,
        };
        let id = scope.correlation_id;
        transport::exchange(&self.client, reuse, resends, request, id, limits, self).await
    }
}

/// Timeouts of one exchange.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Of the whole check.
    deadline: Instant,
    /// Of this exchange.
    own: Instant,
    /// Of each wait for something to arrive.
    read: Duration,
}

impl Limits {
    /// Returns what arrives next, or a timeout.
    async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, Fault> {
        let until = self.own.min(self.deadline).min(Instant::now() + self.read);
        tokio::time::timeout_at(until, next)
            .await
            .map_err(|_| match self.deadline <= until {
                true => Fault::new(Reason::DeadlineExceeded),
                false => Fault::new(Reason::ProviderTimeout),
            })
    }
}

/// The fault of a call that ends after so many attempts.
fn given_up(fault: Fault, attempts: u32, host: &str) -> Fault {
    let tried = (attempts > 1).then_some(attempts);
    fault
        .with_some(EvidenceKind::Attempts, tried)
        .with(EvidenceKind::Host, host)
}

/// Tells the limiter how an attempt has ended.
fn note(
    limited: &LimitedRequests,
    status: Option<u16>,
    scope: Option<ThrottleScope>,
    fault: Option<&Fault>,
) {
    match fault {
        Some(fault) if status == Some(429) && fault.reason == Reason::Throttled => {
            limited.throttled(scope, fault.retry_after);
        }
        _ if status.is_some() => limited.answered(),
        _ => {}
    }
}

/// Starts the span of one attempt. The address is left out: its path and query name tenants and applications.
fn begin_span(scope: Scope<'_>, request: &Request, attempt: u32) -> TraceSpan {
    let method = match request.payload {
        Payload::Bearer(_) => "GET",
        Payload::Form(_) => "POST",
    };
    let span = TraceSpan::child(SpanKind::Client, method);
    if span.is_recording() {
        span.rename(format!("{method} {}", scope.call));
        span.set("http.request.method", method);
        span.set_server(&request.uri);
        if attempt > 1 {
            span.set("http.request.resend_count", i64::from(attempt) - 1);
        }
        span.set("verifyd.provider", "microsoft");
        span.set("verifyd.call", scope.call);
        span.set(
            "verifyd.client_request_id",
            scope.correlation_id.to_string(),
        );
    }
    span
}

fn end_span(span: &TraceSpan, status: Option<u16>, fault: Option<&Fault>) {
    if let Some(status) = status {
        span.set("http.response.status_code", i64::from(status));
    }
    if let Some(fault) = fault {
        span.fail(fault.reason.code());
    }
}

/// Counts and logs one attempt.
fn record(scope: Scope<'_>, host: &str, attempt: u32, took: Duration, fault: Option<&Fault>) {
    let result = fault.map_or("ok", |fault| fault.reason.code());
    metrics::counter!("verifyd_provider_requests_total", "provider" => "microsoft", "call" => scope.call, "result" => result)
        .increment(1);
    metrics::histogram!("verifyd_provider_request_duration_seconds", "provider" => "microsoft", "call" => scope.call)
        .record(took.as_secs_f64());
    tracing::debug!(
        call = scope.call,
        host,
        attempt,
        result,
        status = fault.and_then(|f| f.status),
        cause = fault.and_then(|f| f.failure?.cause()),
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        client_request_id = %scope.correlation_id,
        "provider call"
    );
}
