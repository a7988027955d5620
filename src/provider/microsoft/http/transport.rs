//! One exchange with the provider: send, receive within limits, name what failed.

use super::{Answer, Body, Caller, Limits, Payload, Request};
use crate::domain::Reason;
use crate::outbound::guard::AddressGuard;
use crate::outbound::retry_after::retry_after;
use crate::outbound::{causes, is_tls, root_cause};
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::{Fault, Retry};
use crate::provider::microsoft::settings::{MicrosoftSettings, MicrosoftSettingsError};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, USER_AGENT,
};
use http::{Method, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;
use url::form_urlencoded;
use uuid::Uuid;
use zeroize::Zeroizing;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("verifyd/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");

/// An idle connection is closed after so long.
const IDLE: Duration = Duration::from_secs(90);

/// It follows no redirect, uses no proxy and asks the guard for addresses.
pub(super) type Client =
    legacy::Client<InTime<HttpsConnector<HttpConnector<AddressGuard>>>, Full<Bytes>>;

/// Trusts whom the machine trusts.
///
/// A machine without any trusted root certificate still gets a client, one that trusts nobody:
/// plain http on loopback works (the demo needs no more), and https fails with `tls_failed`.
pub(super) fn tls() -> Result<ClientConfig, MicrosoftSettingsError> {
    let config = || {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
    };
    let unusable = |error: rustls::Error| MicrosoftSettingsError {
        field: "clouds".into(),
        problem: format!("no HTTP client can be made: {}", root_cause(&error)),
    };
    let trusting = config().map_err(unusable)?.with_platform_verifier();
    match trusting {
        Ok(trusting) => Ok(trusting.with_no_client_auth()),
        Err(error) => {
            tracing::warn!(
                error = %root_cause(&error),
                "no trusted root certificates: https calls to the provider will fail with tls_failed"
            );
            Ok(config()
                .map_err(unusable)?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth())
        }
    }
}

/// A client; one that is not pooled opens a connection for each request.
pub(super) fn client(
    settings: &MicrosoftSettings,
    guard: &AddressGuard,
    tls: &ClientConfig,
    pooled: bool,
) -> Client {
    let mut tcp = HttpConnector::new_with_resolver(guard.clone());
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // Divided among the addresses of a name: one that says nothing leaves time for the others.
    tcp.set_connect_timeout(Some(settings.connect_timeout));
    let secured = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    let connector = InTime {
        inner: secured,
        limit: settings.connect_timeout,
    };
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE);
    if !pooled {
        builder.pool_max_idle_per_host(0);
    }
    builder.build(connector)
}

/// Connects within a limit: name, connection and TLS together.
#[derive(Clone, Debug)]
pub(super) struct InTime<C> {
    inner: C,
    limit: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// Sends the request and reads its answer.
pub(super) async fn exchange(
    client: &Client,
    request: Request,
    correlation_id: Uuid,
    limits: Limits,
    caller: &Caller,
) -> Result<Answer, Fault> {
    // Only the answer to a sign-in may hold a secret: Graph's are not worth overwriting.
    let secret = matches!(request.payload, Payload::Form(_));
    let request =
        message(request, correlation_id).map_err(|_| Fault::new(Reason::RequestMalformed))?;
    let response = limits
        .wait(client.request(request))
        .await?
        .map_err(|error| failure(&error))?;
    let status = response.status();
    let headers = response.headers();
    // That of a sign-in may say why.
    if status.is_redirection() && !secret {
        return Err(Fault::new(Reason::RedirectRefused).status(status.as_u16()));
    }
    let retry_after = header(headers, RETRY_AFTER.as_str())
        .and_then(|value| retry_after(value, caller.clock.now()));
    let request_id = ["request-id", "x-ms-request-id"]
        .iter()
        .find_map(|name| evidence::guid(header(headers, name)));
    let is_json = header(headers, CONTENT_TYPE.as_str()).is_some_and(is_json);
    let body = body(response, caller.max_response_bytes, secret, limits).await?;
    let (body, undeclared) = match is_json {
        true => (Some(body), None),
        false => (None, secret.then_some(body)),
    };
    Ok(Answer {
        status: status.as_u16(),
        body,
        undeclared,
        retry_after,
        request_id,
    })
}

fn message(request: Request, correlation_id: Uuid) -> http::Result<http::Request<Full<Bytes>>> {
    let mut id = Uuid::encode_buffer();
    let id = HeaderValue::from_str(correlation_id.hyphenated().encode_lower(&mut id))?;
    let builder = http::Request::builder()
        .uri(request.uri)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, JSON)
        .header(CLIENT_REQUEST_ID, id);
    match request.payload {
        Payload::Bearer(authorization) => builder
            .header(AUTHORIZATION, authorization)
            .body(Full::default()),
        Payload::Form(fields) => builder
            .method(Method::POST)
            .header(CONTENT_TYPE, FORM)
            .body(Full::new(form(&fields))),
    }
}

/// Overwritten once it is sent.
fn form(fields: &[(&'static str, Zeroizing<String>)]) -> Bytes {
    // Each byte may take three: never moved, so that no copy is left behind.
    let most: usize = fields
        .iter()
        .map(|(name, value)| 3 * (name.len() + value.len()) + 2)
        .sum();
    let mut form = form_urlencoded::Serializer::new(String::with_capacity(most));
    for (name, value) in fields {
        form.append_pair(name, value);
    }
    Bytes::from_owner(Zeroizing::new(form.finish().into_bytes()))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `application/json`, or a type with the suffix `+json`, with any parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn body(
    response: http::Response<Incoming>,
    limit: usize,
    secret: bool,
    limits: Limits,
) -> Result<Body, Fault> {
    let status = response.status().as_u16();
    let too_large = || Fault::new(Reason::ResponseTooLarge).status(status);
    // Only a hint, and not needed: the bytes that arrive are counted. Of HEAD and the like it would
    // not even be one.
    let expected = header(response.headers(), CONTENT_LENGTH.as_str())
        .and_then(|length| length.parse::<u64>().ok())
        .unwrap_or_default();
    if expected > limit as u64 {
        return Err(too_large());
    }
    // Large enough from the start where the length is known.
    let capacity = usize::try_from(expected).map_or(limit, |length| length.min(limit));
    let mut body = Body::with_capacity(capacity, secret);
    let mut incoming = response.into_body();
    while let Some(frame) = limits.wait(incoming.frame()).await? {
        let frame = frame.map_err(|error| failure(&error))?;
        let Ok(chunk) = frame.into_data() else {
            continue; // Trailers.
        };
        if !body.add(&chunk, limit) {
            return Err(too_large());
        }
    }
    Ok(body)
}

/// What kept the exchange from happening. The error itself may quote addresses, so only its kind
/// is used.
fn failure(error: &(dyn std::error::Error + 'static)) -> Fault {
    if is_tls(error) {
        return Fault::new(Reason::TlsFailed);
    }
    let is_connect = error
        .downcast_ref::<legacy::Error>()
        .is_some_and(legacy::Error::is_connect);
    let is_timeout = causes(error).any(is_timeout);
    if is_connect {
        // A firewall that drops packets shows as a timeout while connecting. One more try helps
        // against a lost connection only, so a timeout is not tried again.
        let retry = if is_timeout {
            Retry::Never
        } else {
            Retry::Backoff(None)
        };
        return Fault::new(Reason::ProviderUnreachable).retry(retry);
    }
    if is_timeout {
        return Fault::new(Reason::ProviderTimeout);
    }
    // Not HTTP.
    if is_parse(error) {
        return Fault::new(Reason::ResponseInvalid);
    }
    // Closed or reset on the way.
    Fault::new(Reason::ProviderUnreachable).retry(Retry::Backoff(None))
}

fn is_timeout(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

fn is_parse(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::once(error).chain(causes(error)).any(|cause| {
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_type() {
        for yes in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;odata.metadata=minimal",
            "application/problem+json",
        ] {
            assert!(is_json(yes), "{yes}");
        }
        for no in [
            "",
            "text/html",
            "text/json",
            "application/jsonp",
            "image/a+json",
        ] {
            assert!(!is_json(no), "{no}");
        }
    }
}
