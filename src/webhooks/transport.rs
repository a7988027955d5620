//! One request: to public addresses over https, followed nowhere, nothing of its answer kept.

use super::settings::WebhookSettings;
use crate::domain::webhook::AttemptResult;
use crate::outbound::guard::{AddressGuard, NoPublicAddress};
use crate::outbound::retry_after::retry_after;
use crate::outbound::{causes, is_tls, root_cause};
use crate::ports::clock::Clock;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use std::collections::BTreeSet;
use std::time::Duration;
use url::Url;

const USER_AGENT: &str = concat!("verifyd/", env!("CARGO_PKG_VERSION"));

/// Longest address, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Why an address cannot be an endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("it is no URL, or longer than 2048 bytes")]
    NoUrl,
    #[error("allowed is https (http only for hosts in webhooks.loopback_hosts)")]
    NotHttps,
    #[error("it carries a user name or a password, which would be shown in lists")]
    Userinfo,
    #[error("it is no public address (loopback only for hosts in webhooks.loopback_hosts)")]
    NotPublic,
}

/// What kept the HTTP client from being made.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client can be made: {0}")]
pub struct TransportError(String);

/// What is sent.
pub(super) struct Request<'a> {
    pub url: &'a str,
    pub id: &'a str,
    pub timestamp: i64,
    pub signature: String,
    pub body: String,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub result: AttemptResult,
    pub http_status: Option<u16>,
    /// How long the receiver asks to wait.
    pub retry_after: Option<Duration>,
}

impl Answer {
    pub fn failed(result: AttemptResult) -> Self {
        Self {
            result,
            http_status: None,
            retry_after: None,
        }
    }
}

/// The HTTP client for webhooks.
#[derive(Debug)]
pub struct Transport {
    client: reqwest::Client,
    guard: AddressGuard,
    loopback_hosts: BTreeSet<String>,
    request_timeout: Duration,
}

impl Transport {
    /// Fails only if no TLS client can be made at all. Without any trusted root certificate nobody is
    /// trusted, and https ends as `tls_failed`.
    pub fn new(settings: &WebhookSettings) -> Result<Self, TransportError> {
        let loopback_hosts = settings.loopback_hosts();
        let guard = AddressGuard::new(loopback_hosts.clone());
        // Proxies of the environment are not used: they would resolve names in the guard's place.
        let builder = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .user_agent(USER_AGENT)
                .dns_resolver(guard.clone())
                .connect_timeout(settings.connect_timeout)
        };
        let client = builder()
            .build()
            .or_else(|error| {
                tracing::warn!(
                    error = %root_cause(&error),
                    "no trusted root certificates: webhooks over https will fail with tls_failed"
                );
                builder().tls_certs_only([]).build()
            })
            .map_err(|error| TransportError(root_cause(&error)))?;
        Ok(Self {
            client,
            guard,
            loopback_hosts,
            request_timeout: settings.request_timeout,
        })
    }

    /// Whether this may be an endpoint's address, as far as its text tells. Where its name leads to is
    /// decided at each connection.
    pub fn check(&self, url: &str) -> Result<Url, AddressError> {
        if url.len() > MAX_URL_BYTES {
            return Err(AddressError::NoUrl);
        }
        let url = Url::parse(url).map_err(|_| AddressError::NoUrl)?;
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "https" => {}
            "http" if self.loopback_hosts.contains(host) => {}
            _ => return Err(AddressError::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Userinfo);
        }
        if !self.guard.admits_url(&url) {
            return Err(AddressError::NotPublic);
        }
        Ok(url)
    }

    /// Sends it. The body of the answer is not read.
    pub(super) async fn send(&self, request: Request<'_>, clock: &dyn Clock) -> Answer {
        let Ok(url) = self.check(request.url) else {
            return Answer::failed(AttemptResult::AddressRefused);
        };
        let sending = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", request.signature)
            .body(request.body)
            .send();
        match tokio::time::timeout(self.request_timeout, sending).await {
            Err(_) => Answer::failed(AttemptResult::Timeout),
            Ok(Err(error)) => Answer::failed(failure(&error)),
            Ok(Ok(response)) => {
                let status = response.status();
                let retry_after = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| retry_after(value.to_str().ok()?, clock.now()));
                Answer {
                    result: meaning(status),
                    http_status: Some(status.as_u16()),
                    retry_after,
                }
            }
        }
    }
}

fn meaning(status: StatusCode) -> AttemptResult {
    if status.is_success() {
        AttemptResult::Delivered
    } else if status == StatusCode::GONE {
        AttemptResult::Gone
    } else if status.is_redirection() {
        AttemptResult::RedirectRefused
    } else {
        AttemptResult::HttpStatus
    }
}

/// The error itself may quote the address, so only its kind is used.
fn failure(error: &reqwest::Error) -> AttemptResult {
    if causes(error).any(|cause| cause.is::<NoPublicAddress>()) {
        return AttemptResult::AddressRefused;
    }
    if is_tls(error) {
        return AttemptResult::TlsFailed;
    }
    if error.is_timeout() {
        return AttemptResult::Timeout;
    }
    if error.is_connect() {
        return AttemptResult::Unreachable;
    }
    AttemptResult::ResponseInvalid
}
