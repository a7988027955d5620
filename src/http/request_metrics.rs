//! Counts, times and traces answers by route, method and status.
//!
//! No client can add a time series: a route is a template such as `/v1/runs/{run_id}`, and all routes and methods that
//! verifyd does not have share one label.

use crate::domain::trace_parent::TraceParent;
use crate::ports::traces::{SpanKind, TraceSpan};
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use metrics::Gauge;
use std::time::Duration;
use tokio::time::Instant;

/// The label of a route or a method that verifyd does not have.
const OTHER: &str = "other";

/// A request whose answer has not begun. Ends when it is dropped, by a peer that has gone too.
#[derive(Debug)]
struct InFlight(Gauge);

impl InFlight {
    fn begin() -> Self {
        let gauge = metrics::gauge!("verifyd_http_requests_in_flight");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A middleware around all routes, which tells [`measured`] the route of an answer.
pub async fn attach_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut answer = next.run(request).await;
    if let Some(route) = route {
        answer.extensions_mut().insert(route);
    }
    answer
}

/// Returns the answer, counted, timed and traced. A request whose peer has gone before is not counted.
pub async fn measured(
    method: &Method,
    parent: Option<TraceParent>,
    answer: impl Future<Output = Response>,
) -> Response {
    let _in_flight = InFlight::begin();
    let begun = Instant::now();
    let span = TraceSpan::continuing(SpanKind::Server, "HTTP", Duration::ZERO, parent, None);
    let answer = span.scope(answer).await;
    let seconds = begun.elapsed().as_secs_f64();
    let route = answer.extensions().get::<MatchedPath>();
    let route = route.map_or(OTHER, MatchedPath::as_str).to_owned();
    let (method, code) = (label_of(method), class_of(answer.status()));
    describe(&span, method, &route, answer.status());
    span.end();
    metrics::counter!(
        "verifyd_http_requests_total",
        "code" => code, "method" => method, "route" => route.clone()
    )
    .increment(1);
    metrics::histogram!(
        "verifyd_http_request_duration_seconds",
        "method" => method, "route" => route
    )
    .record(seconds);
    answer
}

/// Names the span by the template of its route. The path and the query are left out: they hold ids, and what people
/// searched for.
fn describe(span: &TraceSpan, method: &'static str, route: &str, status: StatusCode) {
    if !span.is_recording() {
        return;
    }
    let (name, method) = match method {
        OTHER => ("HTTP", "_OTHER"),
        method => (method, method),
    };
    match route {
        OTHER => span.rename(name),
        route => {
            span.rename(format!("{name} {route}"));
            span.set("http.route", route.to_owned());
        }
    }
    span.set("http.request.method", method);
    span.set("url.scheme", "http");
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.as_u16().to_string());
    }
}

fn label_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => OTHER,
    }
}

fn class_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}
