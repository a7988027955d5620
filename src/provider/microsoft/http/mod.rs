//! Calls over HTTP with limits: addresses, times, sizes, attempts.

mod backoff;
mod body;
mod transport;

pub(super) use backoff::bounded_wait;
pub(super) use body::Body;

use super::cloud::Clouds;
use super::fault::{Fault, Retry};
use super::settings::{MicrosoftSettings, MicrosoftSettingsError};
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use crate::outbound::guard::AddressGuard;
use crate::ports::clock::Clock;
use backoff::Backoff;
use reqwest::header::HeaderValue;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

/// What a request carries besides its address.
pub(super) enum Payload {
    /// A GET with this `Authorization` header.
    Bearer(HeaderValue),
    /// A POST of these form fields.
    Form(Vec<(&'static str, Zeroizing<String>)>),
}

/// One request, made afresh for every attempt.
pub(super) struct Request {
    pub url: Url,
    pub payload: Payload,
}

/// What all requests of one check have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// Name of the call in logs and metrics.
    pub call: &'static str,
    /// When the check must have ended.
    pub deadline: Instant,
    /// Sent as `client-request-id`.
    pub correlation_id: Uuid,
}

/// An answer within all limits.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// Null when it does not say that it is JSON.
    pub body: Option<Body>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// Id that the provider gave to the request.
    pub request_id: Option<Uuid>,
}

impl Answer {
    /// The body's JSON, all of it; null when it is none.
    pub fn tree(&self) -> Option<Value> {
        self.body.as_ref().and_then(Body::tree)
    }
}

/// The one HTTP client of the provider.
///
/// Proxies of the environment are not used: they would resolve names in the guard's place. No
/// compression is asked for, so that the bytes counted are the bytes there are.
pub(super) struct Caller {
    pooled: reqwest::Client,
    /// Opens a connection for each request: for a second try after a 503, which a gateway may
    /// otherwise answer on the same connection again.
    unpooled: reqwest::Client,
    guard: AddressGuard,
    backoff: Backoff,
    clock: Arc<dyn Clock>,
    request_timeout: Duration,
    max_response_bytes: usize,
    max_attempts: u32,
    defer_after: Duration,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("guard", &self.guard)
            .field("request_timeout", &self.request_timeout)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// Fails only if no TLS client can be made at all.
    pub fn new(
        settings: &MicrosoftSettings,
        clouds: &Clouds,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, MicrosoftSettingsError> {
        let guard = AddressGuard::new(clouds.loopback_hosts());
        Ok(Self {
            pooled: transport::client(settings, &guard, true)?,
            unpooled: transport::client(settings, &guard, false)?,
            guard,
            backoff: Backoff {
                base: settings.retry_base_delay,
                max: settings.retry_max_delay,
            },
            clock,
            request_timeout: settings.request_timeout,
            max_response_bytes: settings.max_response_bytes,
            max_attempts: settings.max_attempts_per_request,
            defer_after: settings.defer_after,
        })
    }

    /// Sends the request, lets `judge` decide what its answer means, and sends it again as long as
    /// the fault allows it and attempts and time are left.
    pub async fn call<T>(
        &self,
        scope: Scope,
        mut request: impl FnMut() -> Result<Request, Fault>,
        judge: impl Fn(Answer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut attempt = 1;
        let mut client = &self.pooled;
        loop {
            let request = request()?;
            let host = request.url.host_str().unwrap_or_default().to_owned();
            let started = Instant::now();
            let result = self.send(client, scope, request).await.and_then(&judge);
            record(
                scope,
                &host,
                attempt,
                started.elapsed(),
                result.as_ref().err(),
            );
            let mut fault = match result {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let wait = match self.wait(&mut fault, attempt, scope.deadline) {
                Some(wait) => wait,
                None => {
                    let tried = (attempt > 1).then_some(attempt);
                    return Err(fault
                        .with_some(EvidenceKind::Attempts, tried)
                        .with(EvidenceKind::Host, host));
                }
            };
            if fault.status == Some(503) {
                client = &self.unpooled;
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// How long to wait before the next attempt; null when there is none. A wait that is too long
    /// to be made here is left in the fault for the queue.
    fn wait(&self, fault: &mut Fault, attempt: u32, deadline: Instant) -> Option<Duration> {
        let asked = match fault.retry {
            Retry::Never => return None,
            Retry::Once => return (attempt == 1).then_some(Duration::ZERO),
            Retry::Backoff(asked) => asked,
        };
        // Zero asks for nothing; coming back at once would not help.
        let asked = asked.filter(|wait| !wait.is_zero());
        let wait = asked.unwrap_or_else(|| self.backoff.after_attempt(attempt));
        let is_too_long = asked.is_some_and(|wait| wait > self.defer_after);
        let fits = Instant::now() + wait < deadline;
        if !is_too_long && fits && attempt < self.max_attempts {
            return Some(wait);
        }
        if is_too_long || fault.reason == Reason::Throttled {
            fault.later = Some(wait.max(self.defer_after));
        }
        None
    }

    async fn send(
        &self,
        client: &reqwest::Client,
        scope: Scope,
        request: Request,
    ) -> Result<Answer, Fault> {
        if !self.guard.admits_url(&request.url) {
            return Err(Fault::new(Reason::ProviderUnreachable));
        }
        let own_limit = Instant::now() + self.request_timeout;
        let exchange = transport::exchange(client, request, scope.correlation_id, self);
        match tokio::time::timeout_at(own_limit.min(scope.deadline), exchange).await {
            Ok(answer) => answer,
            Err(_) if scope.deadline <= own_limit => Err(Fault::new(Reason::DeadlineExceeded)),
            Err(_) => Err(Fault::new(Reason::ProviderTimeout)),
        }
    }
}

fn record(scope: Scope, host: &str, attempt: u32, took: Duration, fault: Option<&Fault>) {
    let result = fault.map_or("ok", |f| f.reason.code());
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
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        client_request_id = %scope.correlation_id,
        "provider call"
    );
}
