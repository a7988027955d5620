//! One exchange with the provider: sends, receives within limits, and names failures.

use super::intermediary::Author;
use super::{Answer, Body, Caller, Limits, Login, Payload, Request};
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use crate::domain::tls_cause::TlsCause;
use crate::outbound::failure::{Failure, FailureKind};
use crate::outbound::proxy::ProxyTrouble;
use crate::outbound::retry_after::retry_after;
use crate::outbound::{AGENT, AnswerBody, Client, Resend, Resends, Reuse};
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::{Fault, Retry};
use crate::provider::microsoft::limiter::ThrottleScope;
use bytes::Bytes;
use http::Method;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use http_body_util::Full;
use url::form_urlencoded;
use uuid::Uuid;
use zeroize::Zeroizing;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");

/// Whom a refusal is about.
const THROTTLE_SCOPE: &str = "x-ms-throttle-scope";

/// Bytes of one answer that are read. What Graph sends for a check is far smaller.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Sends the request and reads its answer. A request that the provider has not processed, or that was lost,
/// is sent again: both kinds of request are safe to repeat.
pub(super) async fn exchange(
    client: &Client,
    reuse: Reuse,
    resends: &mut Resends,
    request: Request,
    correlation_id: Uuid,
    limits: Limits,
    caller: &Caller,
) -> Result<Answer, Fault> {
    // Only the answer to a sign-in may contain a secret, so only it is overwritten.
    let secret = matches!(request.payload, Payload::Form(_));
    let message =
        message(request, correlation_id).map_err(|_| Fault::new(Reason::RequestMalformed))?;
    let proxy = client.proxy(message.uri()).map(ToString::to_string);
    loop {
        let sending = client.send(message.clone(), Resend::Lost, reuse, resends);
        let response = limits
            .wait(sending)
            .await?
            .map_err(|error| failure(&error))?;
        let version = response.version();
        match receive(response, secret, limits, caller).await {
            Err(Broken::Lost(kind)) => {
                if Client::resends_broken(version, kind, resends).await {
                    continue;
                }
                let proxy = proxy.clone();
                let fault = failure(&Failure { kind, proxy });
                // Somebody was reached and has begun to answer.
                return Err(match fault.reason {
                    Reason::ProviderUnreachable => Fault {
                        reason: Reason::ResponseInvalid,
                        ..fault
                    },
                    _ => fault,
                });
            }
            Err(Broken::Refused(fault)) => return Err(fault),
            Ok(answer) => return Ok(answer),
        }
    }
}

/// Why the rest of an answer is not read.
enum Broken {
    Lost(FailureKind),
    Refused(Fault),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

async fn receive(
    response: http::Response<AnswerBody>,
    secret: bool,
    limits: Limits,
    caller: &Caller,
) -> Result<Answer, Broken> {
    let status = response.status();
    let headers = response.headers();
    // The redirect of a sign-in may contain the cause; one without a location is judged as any other answer.
    if status.is_redirection() && !secret && headers.contains_key(LOCATION) {
        return Err(Fault::new(Reason::RedirectRefused)
            .status(status.as_u16())
            .into());
    }
    let retry_after = header(headers, RETRY_AFTER.as_str())
        .and_then(|value| retry_after(value, caller.clock.now()));
    let throttle_scope = header(headers, THROTTLE_SCOPE).and_then(ThrottleScope::parse);
    let request_id = ["request-id", "x-ms-request-id"]
        .iter()
        .find_map(|name| evidence::guid(header(headers, name)));
    let challenged = is_challenged(headers);
    let author = Author::of(status.as_u16(), headers);
    let login = login(headers);
    let body = body(response, MAX_RESPONSE_BYTES, secret, limits).await?;
    Ok(Answer {
        status: status.as_u16(),
        body: Some(body),
        retry_after,
        throttle_scope,
        request_id,
        challenged,
        author,
        login,
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
    // Each byte may take three: the buffer never moves, so no copy is left in memory.
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

/// Returns whether a token with other claims is required: Conditional Access, or continuous access
/// evaluation.
fn is_challenged(headers: &HeaderMap) -> bool {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_ascii_lowercase)
        .any(|value| value.contains("insufficient_claims") || value.contains("claims="))
}

/// Returns the logins that an answer requires. A proxy may add its own to the provider's.
fn login(headers: &HeaderMap) -> Login {
    let mut asked = Login::None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        // One header may contain several.
        if value
            .split([',', ' '])
            .any(|word| matches!(word, "bearer" | "pop"))
        {
            return Login::Token;
        }
        asked = Login::Other;
    }
    asked
}

async fn body(
    mut response: http::Response<AnswerBody>,
    limit: usize,
    secret: bool,
    limits: Limits,
) -> Result<Body, Broken> {
    let status = response.status().as_u16();
    let too_large = || Fault::new(Reason::ResponseTooLarge).status(status);
    // Only a hint, and not needed: the bytes that arrive are counted. Of HEAD and the like it would
    // not even be one.
    let expected = header(response.headers(), CONTENT_LENGTH.as_str())
        .and_then(|length| length.parse::<u64>().ok())
        .unwrap_or_default();
    if expected > limit as u64 {
        return Err(too_large().into());
    }
    // Large enough from the start where the length is known.
    let capacity = usize::try_from(expected).map_or(limit, |length| length.min(limit));
    let mut body = Body::with_capacity(capacity, secret);
    let incoming = response.body_mut();
    while let Some(chunk) = limits.wait(incoming.piece()).await?.map_err(Broken::Lost)? {
        if !body.add(&chunk, limit) {
            return Err(too_large().into());
        }
    }
    Ok(body)
}

/// Translates the failure of an exchange.
fn failure(failure: &Failure) -> Fault {
    use FailureKind as Kind;
    let again = Retry::Backoff;
    let unreachable = || Fault::new(Reason::ProviderUnreachable);
    let mut fault = match failure.kind {
        Kind::AddressRefused => unreachable(),
        // A firewall that drops packets shows as a timeout while connecting. One more try helps
        // against a lost connection only, so a timeout is not tried again.
        Kind::ConnectTimeout => unreachable(),
        // Without evidence of the cause: the fingerprint of a report does not change with how a network fails.
        Kind::Unreachable
        | Kind::NotProcessed
        | Kind::Lost
        | Kind::Reset
        | Kind::Tls(TlsCause::Closed) => unreachable().retry(again, None),
        Kind::Tls(cause) => Fault::new(Reason::TlsFailed).with(EvidenceKind::Cause, cause),
        Kind::Timeout => Fault::new(Reason::ProviderTimeout),
        Kind::NotHttp | Kind::EndlessHead => Fault::new(Reason::ResponseInvalid),
        Kind::Proxy(trouble) => {
            let may_pass = matches!(
                trouble,
                ProxyTrouble::Unreachable
                    | ProxyTrouble::Closed
                    | ProxyTrouble::Tls(TlsCause::Closed)
                    | ProxyTrouble::Status(408 | 425 | 429 | 500..=599)
            );
            let retry = if may_pass { again } else { Retry::Never };
            let refuses = matches!(
                trouble,
                ProxyTrouble::AsksForCredentials
                    | ProxyTrouble::RefusesCredentials
                    | ProxyTrouble::RefusesHost
            );
            let fault = match refuses {
                true => Fault::new(Reason::ProxyRefused),
                false => unreachable(),
            };
            fault
                .retry(retry, None)
                .with(EvidenceKind::Cause, trouble)
                .with_some(EvidenceKind::HttpStatus, trouble.status())
        }
    };
    fault.failure = Some(failure.kind);
    let cause = failure.kind.cause();
    fault.remark = cause.map(|cause| format!("Cause: {cause}.").into());
    fault.with_some(EvidenceKind::Proxy, failure.proxy.as_deref())
}
