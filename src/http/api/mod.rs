//! The API, `/v1`: start checks, read runs and reports, acknowledge.
//!
//! Every answer is JSON, every error a problem (RFC 9457). What is out of a token's reach does not
//! exist for it.

mod acknowledgements;
mod audit;
mod auth;
mod connections;
mod document;
mod idempotency;
mod input;
mod onboarding;
mod problem;
mod reports;
mod routes;
mod runs;
mod schemas;
mod workers;

pub use document::document;

use crate::domain::TokenId;
use crate::domain::access::Scope;
use crate::domain::report::redact::clean;
use crate::http::body::MAX_BODY_BYTES;
use crate::http::panics;
use crate::http::rate_limit::RateLimiter;
use crate::http::reads::Reads;
use crate::http::request_id::RequestId;
use crate::http::request_limits::RequestLimits;
use crate::ports::clock::Clock;
use crate::ports::log_throttle::LogThrottle;
use crate::ports::provider::Providers;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use problem::{Kind, Problem};
use routes::{Access, Routes};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;
use utoipa_axum::routes;

/// What every path begins with.
pub const PREFIX: &str = "/v1";
/// Characters of a path in the log.
const LOGGED_PATH_LENGTH: usize = 200;

/// Of refused requests without a valid token, however many there are.
static REFUSED: LogThrottle = LogThrottle::every(Duration::from_secs(1));

/// Section `[http.api]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSettings {
    pub enabled: Switch,
    /// Of one token, and as many at once.
    pub requests_per_minute: u32,
    /// Without a valid token, of one address.
    pub anonymous_requests_per_minute: u32,
}

/// On or off, as it stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    On,
    Off,
}

/// What the API works with.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub reads: Arc<Reads>,
    /// The queue that workers listen to.
    pub queue: Option<Arc<dyn Queue>>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
    request_limits: Arc<RequestLimits>,
    by_token: RateLimiter<TokenId>,
    by_address: RateLimiter<Option<IpAddr>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("store", &self.store)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Api {
    pub fn new(
        store: Arc<dyn Store>,
        reads: Arc<Reads>,
        queue: Option<Arc<dyn Queue>>,
        providers: Providers,
        clock: Arc<dyn Clock>,
        request_limits: Arc<RequestLimits>,
        settings: &ApiSettings,
    ) -> Self {
        Self {
            by_token: RateLimiter::per_minute(settings.requests_per_minute),
            by_address: RateLimiter::per_minute(settings.anonymous_requests_per_minute),
            request_limits,
            store,
            reads,
            queue,
            providers,
            clock,
        }
    }
}

/// The one list of routes.
fn routes() -> Routes {
    const READ: Access = Access::Scope(Scope::Read);
    const RUN: Access = Access::Scope(Scope::Run);
    const ADMIN: Access = Access::Scope(Scope::Admin);
    const AUDIT: Access = Access::Scope(Scope::Audit);
    Routes::new()
        .add(RUN, routes!(runs::start_check))
        .add(READ, routes!(runs::list_runs))
        .add(READ, routes!(runs::read_run))
        .add(READ, routes!(reports::read_report))
        .add(READ, routes!(reports::read_diff))
        .add(RUN, routes!(acknowledgements::acknowledge_check))
        .add(READ, routes!(acknowledgements::list_acknowledgements))
        .add(READ, routes!(acknowledgements::read_acknowledgement))
        .add(RUN, routes!(acknowledgements::withdraw_acknowledgement))
        .add(READ, routes!(connections::list_connections))
        .add(READ, routes!(connections::read_connection))
        .add(READ, routes!(onboarding::read_onboarding_session))
        .add(ADMIN, routes!(workers::list_workers))
        .add(AUDIT, routes!(audit::list_audit_entries))
        .add(Access::Public, routes!(document::read_document))
}

/// The API under `/v1`.
pub fn router(api: Arc<Api>) -> Router {
    let (router, _) = routes().split();
    let body = DefaultBodyLimit::max(MAX_BODY_BYTES);
    let inner = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(&api));
    Router::new()
        .nest(PREFIX, inner)
        // Or else the pages would answer it.
        .route("/v1/", any(not_found).with_state(Arc::clone(&api)))
        .layer(body)
        .layer(middleware::from_fn_with_state(api, finish))
}

async fn not_found(State(api): State<Arc<Api>>, request: Request) -> Problem {
    auth::unrouted(&api, &request, Problem::not_found())
}

async fn method_not_allowed(State(api): State<Arc<Api>>, request: Request) -> Problem {
    let problem = Problem::of_status(StatusCode::METHOD_NOT_ALLOWED);
    auth::unrouted(&api, &request, problem)
}

/// Around everything: time, panics, the request's id, the line in the log, problems.
async fn finish(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId::of(&request);
    let method = request.method().clone();
    // Never the query: it may hold what people searched for.
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(Arc::clone(&api));
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", id = id.0, token = tracing::field::Empty);
    let work = panics::caught(next.run(request), || {
        Problem::new(Kind::Defect, "The work on it panicked; the log says where.").into_response()
    });
    let worked = tokio::time::timeout(api.request_limits.request_timeout, work);
    let answered = worked.instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|_| {
        Problem::new(
            Kind::Unavailable,
            "It takes longer than a request may. Try again.",
        )
        .retry_after(Duration::from_secs(5))
        .into_response()
    });
    let token = response.extensions_mut().remove::<TokenId>();
    let mut response = rendered(response, &path, &id);
    id.add_to(&mut response);
    let headers = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status();
    let is_throttled = token.is_none() && status.is_client_error();
    let left_out = is_throttled.then(|| REFUSED.line());
    if left_out == Some(None) {
        return response;
    }
    let (status, left_out) = (status.as_u16(), left_out.flatten());
    let path = clean(&path, LOGGED_PATH_LENGTH);
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::info!(%method, path, status, millis, left_out, "answered"));
    response
}

/// Writes the body of a problem, also of one that the router made.
fn rendered(mut response: Response, path: &str, id: &RequestId) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = problem.unwrap_or_else(|| Problem::of_status(status));
    let mut answer = problem.render(path, &id.0);
    for name in [header::ALLOW, header::CONNECTION] {
        if let Some(value) = response.headers().get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// What a request is answered for which there is no connection but a reserved one.
pub fn all_in_use(path: &str) -> Response {
    let problem = Problem::new(Kind::Unavailable, "All connections are in use. Try again.");
    before_routing(path, problem.retry_after(Duration::from_secs(5)))
}

/// What a request is answered whose header is not as `allowed` says.
pub fn invalid_header(path: &str, header: &str, problem: &str, allowed: &str) -> Response {
    let problem = Problem::field(Kind::InvalidHeader, header, problem, allowed);
    before_routing(path, problem)
}

fn before_routing(path: &str, problem: Problem) -> Response {
    let id = RequestId::fresh();
    let mut response = problem.render(path, &id.0);
    id.add_to(&mut response);
    response
}

/// An answer with a JSON body.
fn json<T: serde::Serialize>(status: StatusCode, body: &T) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
