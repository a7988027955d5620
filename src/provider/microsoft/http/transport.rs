//! One exchange with the provider: send, receive within limits, name what failed.

use super::backoff;
use super::{Answer, Body, Caller, Payload, Request};
use crate::domain::Reason;
use crate::outbound::guard::AddressGuard;
use crate::outbound::{causes, is_tls, root_cause};
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::{Fault, Retry};
use crate::provider::microsoft::settings::{MicrosoftSettings, MicrosoftSettingsError};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use uuid::Uuid;

const USER_AGENT: &str = concat!("verifyd/", env!("CARGO_PKG_VERSION"));

/// A client that follows no redirect, uses no proxy and asks the guard for addresses.
///
/// A machine without any trusted root certificate still gets a client, one that trusts nobody:
/// plain http on loopback works (the demo needs no more), and https fails with `tls_failed`.
pub(super) fn client(
    settings: &MicrosoftSettings,
    guard: &AddressGuard,
    pooled: bool,
) -> Result<reqwest::Client, MicrosoftSettingsError> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(USER_AGENT)
            .dns_resolver(guard.clone())
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout);
        if pooled {
            builder
        } else {
            builder.pool_max_idle_per_host(0)
        }
    };
    builder()
        .build()
        .or_else(|error| {
            tracing::warn!(
                error = %root_cause(&error),
                "no trusted root certificates: https calls to the provider will fail with tls_failed"
            );
            builder().tls_certs_only([]).build()
        })
        .map_err(|error| MicrosoftSettingsError {
            field: "clouds".into(),
            problem: format!("no HTTP client can be made: {}", root_cause(&error)),
        })
}

/// Sends the request and reads its answer.
pub(super) async fn exchange(
    client: &reqwest::Client,
    request: Request,
    correlation_id: Uuid,
    caller: &Caller,
) -> Result<Answer, Fault> {
    // Only the answer to a sign-in may hold a secret: Graph's are not worth overwriting.
    let secret = matches!(request.payload, Payload::Form(_));
    let builder = match request.payload {
        Payload::Bearer(authorization) => {
            client.get(request.url).header(AUTHORIZATION, authorization)
        }
        Payload::Form(fields) => {
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            client.post(request.url).form(&fields)
        }
    };
    let response = builder
        .header(ACCEPT, "application/json")
        .header("client-request-id", correlation_id.to_string())
        .send()
        .await
        .map_err(|error| failure(&error))?;
    let status = response.status();
    let headers = response.headers();
    if status.is_redirection() {
        return Err(Fault::new(Reason::RedirectRefused).status(status.as_u16()));
    }
    let retry_after = header(headers, RETRY_AFTER.as_str())
        .and_then(|value| backoff::retry_after(value, caller.clock.now()));
    let request_id = ["request-id", "x-ms-request-id"]
        .iter()
        .find_map(|name| evidence::guid(header(headers, name)));
    let is_json = header(headers, CONTENT_TYPE.as_str()).is_some_and(is_json);
    let body = body(response, caller.max_response_bytes, secret).await?;
    Ok(Answer {
        status: status.as_u16(),
        body: is_json.then_some(body),
        retry_after,
        request_id,
    })
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

async fn body(mut response: reqwest::Response, limit: usize, secret: bool) -> Result<Body, Fault> {
    let status = response.status().as_u16();
    let too_large = || Fault::new(Reason::ResponseTooLarge).status(status);
    // Only a hint, and not needed: the bytes that arrive are counted.
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(too_large());
    }
    // Large enough from the start where the length is known.
    let expected = response.content_length().unwrap_or_default();
    let capacity = usize::try_from(expected).map_or(limit, |length| length.min(limit));
    let mut body = Body::with_capacity(capacity, secret);
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if !body.add(&chunk, limit) {
            return Err(too_large());
        }
    }
    Ok(body)
}

/// What kept the exchange from happening. The error itself may quote addresses, so only its kind
/// is used.
fn failure(error: &reqwest::Error) -> Fault {
    if is_tls(error) {
        return Fault::new(Reason::TlsFailed);
    }
    if error.is_connect() {
        // A firewall that drops packets shows as a timeout while connecting. One more try helps
        // against a lost connection only, so a timeout is not tried again.
        let retry = if error.is_timeout() {
            Retry::Never
        } else {
            Retry::Backoff(None)
        };
        return Fault::new(Reason::ProviderUnreachable).retry(retry);
    }
    if error.is_timeout() {
        return Fault::new(Reason::ProviderTimeout);
    }
    if error.is_builder() {
        return Fault::new(Reason::RequestMalformed);
    }
    // Not HTTP.
    if is_parse(error) {
        return Fault::new(Reason::ResponseInvalid);
    }
    // Closed or reset on the way.
    Fault::new(Reason::ProviderUnreachable).retry(Retry::Backoff(None))
}

fn is_parse(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
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
