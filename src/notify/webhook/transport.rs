//! Sends one HTTP request to a public address over https. Redirects are not followed, and the body of the
//! answer is not read.

use super::address::AddressRule;
use crate::domain::tls_cause::TlsCause;
use crate::domain::webhook::AttemptResult;
use crate::notify::settings::WebhookSettings;
use crate::outbound::failure::FailureKind;
use crate::outbound::retry_after::retry_after;
use crate::outbound::{AGENT, Client, Outbound, ProxiedHosts, Resend, Resends, Reuse};
use crate::ports::clock::Clock;
use crate::ports::traces::{SpanKind, TraceSpan};
use crate::ports::webhook_deliveries::SendResult;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use std::time::Duration;

/// A signed message.
pub(super) struct Request<'a> {
    pub url: &'a str,
    pub id: &'a str,
    pub timestamp: i64,
    pub signature: String,
    pub body: String,
}

/// The HTTP client for webhooks.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    rule: AddressRule,
    request_timeout: Duration,
}

impl Transport {
    /// Creates a client. Names of more than one label are called through the proxy, if there is one.
    pub(super) fn new(settings: &WebhookSettings, outbound: &Outbound) -> Self {
        let rule = AddressRule::new(settings);
        Self {
            client: outbound.client(
                rule.loopback_hosts().clone(),
                ProxiedHosts::Qualified,
                settings.connect_timeout(),
            ),
            rule,
            request_timeout: settings.request_timeout,
        }
    }

    /// Sends the message within `webhooks.request_timeout`.
    pub(super) async fn send(&self, request: Request<'_>, clock: &dyn Clock) -> SendResult {
        let Ok(url) = self.rule.check_stored(request.url) else {
            return SendResult::without_answer(AttemptResult::AddressRefused);
        };
        let message = http::Request::post(url.as_str())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", request.signature)
            .body(Full::new(Bytes::from(request.body)));
        let Ok(mut message) = message else {
            return SendResult::without_answer(AttemptResult::AddressRefused);
        };
        let span = TraceSpan::child(SpanKind::Client, "POST webhook");
        let traceparent = span.traceparent();
        if let Some(Ok(traceparent)) = traceparent.map(|own| HeaderValue::try_from(own.to_string()))
        {
            message.headers_mut().insert("traceparent", traceparent);
        }
        span.set("http.request.method", "POST");
        // No path: receivers put tokens there.
        span.set_server(message.uri());
        // Receivers close idle connections, also in the moment in which a message is sent on one: no failure of theirs.
        // One that has read it knows it again by its id. A message that is lost otherwise is another attempt's.
        let mut resends = Resends::default();
        let sending = self
            .client
            .send(message, Resend::LostReused, Reuse::Allowed, &mut resends);
        let sent = tokio::time::timeout(self.request_timeout, span.scope(sending)).await;
        let sent = match sent {
            Err(_) => SendResult::without_answer(AttemptResult::Timeout),
            Ok(Err(failure)) => {
                if let Some(proxy) = &failure.proxy {
                    tracing::debug!(proxy, "cannot send a webhook through the proxy");
                }
                SendResult {
                    cause: Some(failure.kind.explained()),
                    ..SendResult::without_answer(result_of_failure(failure.kind))
                }
            }
            Ok(Ok(response)) => {
                let status = response.status();
                let retry_after = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| retry_after(value.to_str().ok()?, clock.now()));
                SendResult {
                    result: result_of(status),
                    cause: None,
                    status_code: Some(status.as_u16()),
                    retry_after,
                }
            }
        };
        if let Some(status) = sent.status_code {
            span.set("http.response.status_code", i64::from(status));
        }
        if sent.result != AttemptResult::Delivered {
            span.fail(sent.result.as_str());
        }
        span.end();
        sent
    }
}

fn result_of(status: StatusCode) -> AttemptResult {
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

fn result_of_failure(kind: FailureKind) -> AttemptResult {
    match kind {
        FailureKind::AddressRefused => AttemptResult::AddressRefused,
        FailureKind::Tls(TlsCause::Closed) => AttemptResult::Unreachable,
        FailureKind::Tls(_) => AttemptResult::TlsFailed,
        FailureKind::ConnectTimeout | FailureKind::Timeout => AttemptResult::Timeout,
        FailureKind::Unreachable | FailureKind::Proxy(_) => AttemptResult::Unreachable,
        FailureKind::NotProcessed
        | FailureKind::Lost
        | FailureKind::Reset
        | FailureKind::NotHttp
        | FailureKind::EndlessHead => AttemptResult::ResponseInvalid,
    }
}
