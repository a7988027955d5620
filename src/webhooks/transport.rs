//! One request: to public addresses over https, followed nowhere, nothing of its answer kept.

use super::settings::WebhookSettings;
use crate::domain::webhook::AttemptResult;
use crate::outbound::failure::FailureKind;
use crate::outbound::guard::AddressGuard;
use crate::outbound::retry_after::retry_after;
use crate::outbound::{AGENT, Client, Outbound, ProxiedHosts, Resend, Resends, Reuse};
use crate::ports::clock::Clock;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http_body_util::Full;
use std::collections::BTreeSet;
use std::time::Duration;
use url::Url;

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

/// Which addresses endpoints may have.
#[derive(Clone, Debug)]
pub struct AddressRule {
    guard: AddressGuard,
    loopback_hosts: BTreeSet<String>,
}

impl AddressRule {
    pub fn new(settings: &WebhookSettings) -> Self {
        let loopback_hosts = settings.loopback_hosts();
        Self {
            guard: AddressGuard::new(loopback_hosts.clone()),
            loopback_hosts,
        }
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
}

/// The HTTP client for webhooks.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    rule: AddressRule,
    request_timeout: Duration,
}

impl Transport {
    /// Names are called through a proxy when they are more than one label.
    pub(super) fn new(settings: &WebhookSettings, outbound: &Outbound) -> Self {
        let rule = AddressRule::new(settings);
        Self {
            client: outbound.client(
                rule.loopback_hosts.clone(),
                ProxiedHosts::Qualified,
                settings.connect_timeout(),
            ),
            rule,
            request_timeout: settings.request_timeout,
        }
    }

    /// Sends it. The body of the answer is not read.
    pub(super) async fn send(&self, request: Request<'_>, clock: &dyn Clock) -> Answer {
        let Ok(url) = self.rule.check(request.url) else {
            return Answer::failed(AttemptResult::AddressRefused);
        };
        let message = http::Request::post(url.as_str())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", request.signature)
            .body(Full::new(Bytes::from(request.body)));
        let Ok(message) = message else {
            return Answer::failed(AttemptResult::AddressRefused);
        };
        // A receiver that may have begun with it gets it again as another attempt only.
        let mut resends = Resends::default();
        let sending = self
            .client
            .send(message, Resend::NotProcessed, Reuse::Allowed, &mut resends);
        match tokio::time::timeout(self.request_timeout, sending).await {
            Err(_) => Answer::failed(AttemptResult::Timeout),
            Ok(Err(failure)) => {
                if let Some(proxy) = &failure.proxy {
                    tracing::debug!(proxy, cause = %failure.kind, "a webhook did not get through");
                }
                Answer::failed(failed(failure.kind))
            }
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

fn failed(kind: FailureKind) -> AttemptResult {
    match kind {
        FailureKind::AddressRefused => AttemptResult::AddressRefused,
        FailureKind::Tls => AttemptResult::TlsFailed,
        FailureKind::ConnectTimeout | FailureKind::Timeout => AttemptResult::Timeout,
        FailureKind::Unreachable | FailureKind::Proxy(_) => AttemptResult::Unreachable,
        FailureKind::NotProcessed
        | FailureKind::Lost
        | FailureKind::Reset
        | FailureKind::NotHttp
        | FailureKind::EndlessHead => AttemptResult::ResponseInvalid,
    }
}
