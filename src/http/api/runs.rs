//! Runs: start one, list them, read one.

use super::auth::Caller;
use super::idempotency::{Answer, IdempotentRequest};
use super::input::{Fields, FromFields, JsonBody, Nothing, PathId, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::run::{Outcome, RunStatus};
use crate::domain::{ConnectionId, RunId, SessionId, TenantId};
use crate::http::list::{List, Page};
use crate::operations::{self, CheckRequest};
use crate::ports::access::AnswerSubject;
use crate::ports::store::RunFilter;
use crate::view::{RunDetail, RunItem};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Characters of a module's name.
const MODULE_CHARS: usize = 100;

/// What a check is started with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "module": "health_check" }))]
pub struct StartCheck {
    /// What the connection is checked for; the connection's own module if absent.
    #[schema(max_length = 100, min_length = 1)]
    pub module: Option<String>,
    /// The onboarding session that is pointed to the run.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub onboarding_session_id: Option<SessionId>,
}

impl FromFields for StartCheck {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            module: fields.text("module", MODULE_CHARS, false),
            onboarding_session_id: fields.id("onboarding_session_id"),
        }
    }
}

/// The run that checks the connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CheckStarted {
    /// False: a run of the connection was active already, and this is it.
    pub created: bool,
    pub run: RunItem,
}

/// Start a check of a connection
///
/// A connection is checked by one run at a time: while one is queued or running it is returned in
/// place of a second one.
#[utoipa::path(
    post,
    path = "/connections/{connection_id}/checks",
    tag = "runs",
    params(
        ("connection_id" = i64, Path, minimum = 1),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
         pattern = "^[!-~]+$",
         description = "What is asked again under the same key is answered again, not done again."),
    ),
    request_body(content = Option<StartCheck>, description = "May be left out"),
    responses(
        (status = 201, description = "The run is recorded", body = CheckStarted,
         headers(("Location" = String, description = "Path of the run"))),
        (status = 200, description = "A run of the connection is active", body = CheckStarted,
         headers(("Location" = String, description = "Path of the run"))),
        (status = 404, description = "No such connection, or no such onboarding session", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A request with this key is being answered, or the connection cannot be used", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn start_check(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<ConnectionId>,
    idempotent: IdempotentRequest,
    body: JsonBody<StartCheck>,
) -> Result<Response, Problem> {
    let request = CheckRequest {
        connection: id,
        reach: caller.binding(),
        module: body.read.module,
        onboarding_session: body.read.onboarding_session_id,
    };
    let work = start(Arc::clone(&api), request);
    idempotent.answer(&api, &caller, &body.bytes, work).await
}

async fn start(api: Arc<Api>, request: CheckRequest) -> Result<Answer, Problem> {
    let (store, queue) = (&*api.store, api.queue.as_deref());
    let started = operations::start_check(store, queue, &api.providers, &request).await?;
    if let Err(error) = &started.hint {
        tracing::warn!(%error, "cannot send a hint; the sweep finds the run");
    }
    let recorded = started.recorded;
    let run = api.store.run_summary(recorded.run_id).await?;
    let run = run.ok_or_else(Problem::not_found)?;
    let started = CheckStarted {
        created: recorded.created,
        run: RunItem::from(run),
    };
    let (id, href) = (recorded.run_id, RunItem::href(recorded.run_id));
    Answer::made(recorded.created, href, &started, AnswerSubject::Run(id))
}

/// Which runs to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RunQuery {
    #[param(inline)]
    pub status: Option<RunStatus>,
    #[param(inline)]
    pub outcome: Option<Outcome>,
    /// Id of a connection.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub connection: Option<ConnectionId>,
    /// Id of a tenant.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub tenant: Option<TenantId>,
    /// Only runs with a smaller id: the cursor.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub before: Option<RunId>,
    /// Most rows of the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: u32,
}

impl FromFields for RunQuery {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            status: fields.name("status"),
            outcome: fields.name("outcome"),
            connection: fields.id("connection"),
            tenant: fields.id("tenant"),
            before: fields.id("before"),
            limit: fields.limit(),
        }
    }
}

/// Runs, newest first
#[utoipa::path(
    get,
    path = "/runs",
    tag = "runs",
    params(RunQuery),
    responses((status = 200, description = "A page of runs", body = Page<RunItem>)),
)]
pub async fn list_runs(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<RunQuery>,
) -> Result<Response, Problem> {
    let list = List::with_limit("/v1/runs", "before", query.limit)
        .with("status", query.status)
        .with("outcome", query.outcome)
        .with("connection", query.connection)
        .with("tenant", query.tenant);
    let filter = RunFilter {
        binding: caller.binding(),
        status: query.status,
        outcome: query.outcome,
        connection: query.connection,
        tenant: query.tenant,
        before: query.before,
        limit: list.rows(),
    };
    let found = caller.reads(&api).runs(&filter).await?;
    let page = list.page(found, |last| last.id);
    json(StatusCode::OK, &page.map(RunItem::from))
}

/// One run
///
/// With its verdict, its report in the order in which a person needs it, its acknowledgements, its
/// times, and what changed against the previous report.
#[utoipa::path(
    get,
    path = "/runs/{run_id}",
    tag = "runs",
    params(("run_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The run", body = RunDetail),
        (status = 404, description = "No such run", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_run(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<RunId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let record = operations::read_run(caller.reads(&api), &caller.binding(), id).await?;
    json(StatusCode::OK, &RunDetail::of(&record, api.clock.now()))
}
