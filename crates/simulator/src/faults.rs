//! What comes in place of an answer.

use super::calls::Endpoint;
use super::graph::error::GraphError;
use super::login;
use super::login::error as aadsts;
use super::scenario::behaviour::{Behaviour, RetryAfter, What};
use super::state::Simulated;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, StreamExt as _};
use std::convert::Infallible;
use std::sync::Arc;

/// How deep the arrays of `What::Deep` lie in each other.
const DEPTH: usize = 20_000;
/// Chunk of the large answers, in bytes, and how many of them make 64 MiB.
const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 1024;

const HTML_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Network sign-in</title></head>\
    <body><h1>Please accept the terms of this network</h1></body></html>\n";

/// The fault that is to be shown now; counts it as shown.
pub(super) fn due(
    shared: &Simulated,
    tenant: &str,
    behaviour: &Behaviour,
    endpoint: Endpoint,
) -> Option<What> {
    let fault = behaviour.fault.filter(|fault| fault.at.covers(endpoint))?;
    let is_due = fault.times == u32::MAX || shared.tenants().show(tenant, fault.times);
    is_due.then_some(fault.what)
}

/// Makes the answer that is shown instead.
pub(super) async fn show(
    shared: &Arc<Simulated>,
    what: What,
    tenant: &str,
    endpoint: Endpoint,
    request: &HeaderMap,
) -> Response {
    let own = |status| own_error(shared, endpoint, status, request);
    match what {
        What::Throttled(retry_after) => throttled(shared, endpoint, retry_after, request),
        What::Unavailable(status) => own(status),
        What::Page(status) => page(status),
        What::Stall => {
            shared.wait(shared.options.stall).await;
            page(504)
        }
        What::StallInBody => stalling(shared),
        What::Truncated => json("{\"@odata.context\":\"\",\"value\":[{\"id\":\"5c0000"),
        What::Deep => json(format!(
            "{{\"value\":{}{}}}",
            "[".repeat(DEPTH),
            "]".repeat(DEPTH)
        )),
        What::WrongShape => json(
            "{\"token_type\":7,\"expires_in\":[],\"access_token\":{},\
             \"id\":17,\"value\":{\"id\":[]},\"subscriptionState\":{}}",
        ),
        What::Huge { declared } => huge(shared, declared),
        What::Redirect(status) => redirect(shared, status, tenant),
        What::NotFound => GraphError::not_found("simulated").answer(shared, request),
        What::Forbidden => GraphError::intune_forbidden(endpoint).answer(shared, request),
        What::Error(status, code, message) => {
            GraphError::new(status, code, message).answer(shared, request)
        }
        What::IntuneError(status, code, message) => {
            GraphError::intune(status, code, message).answer(shared, request)
        }
        What::ClaimsChallenge => GraphError::claims_challenge().answer(shared, request),
        // Pages need the list: it is made where the list is.
        What::Pages(_) => own(500),
    }
}

/// An error in the shape of the service that is asked.
fn own_error(shared: &Simulated, endpoint: Endpoint, status: u16, request: &HeaderMap) -> Response {
    if endpoint == Endpoint::Token {
        let mut response = login::refused(shared, &(&aadsts::UNAVAILABLE).into(), request);
        *response.status_mut() = status_of(status);
        return response;
    }
    GraphError::new(
        status,
        "ServiceUnavailable",
        "The service is temporarily unavailable.",
    )
    .answer(shared, request)
}

fn throttled(
    shared: &Simulated,
    endpoint: Endpoint,
    retry_after: RetryAfter,
    request: &HeaderMap,
) -> Response {
    let mut response = if endpoint == Endpoint::Token {
        login::refused(shared, &(&aadsts::TENANT_THROTTLED).into(), request)
    } else {
        GraphError::too_many_requests().answer(shared, request)
    };
    let long = shared.options.long_retry_after;
    let value = match retry_after {
        RetryAfter::Seconds(seconds) => Some(seconds.to_string()),
        RetryAfter::Long => Some(long.as_secs().to_string()),
        RetryAfter::LongDate => {
            let until = (shared.clock)() + long;
            Some(until.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
        }
        RetryAfter::Missing => None,
    };
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn redirect(shared: &Simulated, status: u16, tenant: &str) -> Response {
    let location = trap(shared, tenant);
    (status_of(status), [(header::LOCATION, location)]).into_response()
}

/// An address on another host that counts who comes.
pub(super) fn trap(shared: &Simulated, tenant: &str) -> String {
    format!("{}/__simulator/trap/{tenant}", shared.foreign_origin)
}

fn page(status: u16) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status_of(status), headers, HTML_PAGE).into_response()
}

fn json(body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    (headers, body.into()).into_response()
}

fn stalling(shared: &Arc<Simulated>) -> Response {
    let shared = Arc::clone(shared);
    let begin = stream::once(async { Bytes::from_static(b"{\"value\":[") });
    let nothing = stream::once(async move {
        shared.wait(shared.options.stall).await;
        Bytes::new()
    });
    json(Body::from_stream(
        begin.chain(nothing).map(Ok::<_, Infallible>),
    ))
}

fn huge(shared: &Simulated, declared: bool) -> Response {
    let head = Bytes::from_static(b"{\"value\":[\"");
    let tail = Bytes::from_static(b"\"]}");
    let length = head.len() + CHUNK * CHUNKS + tail.len();
    let filling = Bytes::from(vec![b'x'; CHUNK]);
    let parts = stream::once(async { head })
        .chain(stream::iter(std::iter::repeat_n(filling, CHUNKS)))
        .chain(stream::once(async { tail }))
        .take_until(shared.stop.clone().cancelled_owned());
    let mut response = json(Body::from_stream(parts.map(Ok::<_, Infallible>)));
    if declared {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
