//! Runs: start one, list them, read one.

use super::auth::Caller;
use super::idempotency::{Answer, Once};
use super::input::{Fields, FromFields, JsonBody, Nothing, PathId, Query};
use super::page::{self, Page};
use super::problem::{FieldError, Kind, Problem};
use super::{Api, json};
use crate::domain::access::Binding;
use crate::domain::connection::ProviderConnection;
use crate::domain::onboarding::SessionError;
use crate::domain::report::Overall;
use crate::domain::run::{Outcome, RunStatus, RunSummary};
use crate::domain::{ConnectionId, RunId, SessionId, TenantId};
use crate::operations;
use crate::operations::start_check::{StartCheckError, start_check_for_session};
use crate::ports::store::{ForSession, RunFilter};
use crate::view::RunDetail;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Characters of a module's name.
const MODULE_CHARS: usize = 100;

/// A run as it stands in lists.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunItem {
    pub operation_run_id: i64,
    #[schema(required)]
    pub workspace_id: Option<i64>,
    #[schema(required)]
    pub tenant_id: Option<i64>,
    /// As the producer named it.
    #[schema(required)]
    pub provider_connection_id: Option<i64>,
    #[schema(required)]
    pub provider: Option<String>,
    #[schema(required)]
    pub module: Option<String>,
    #[schema(required)]
    pub display_name: Option<String>,
    pub status: RunStatus,
    #[schema(required)]
    pub outcome: Option<Outcome>,
    #[schema(required)]
    pub recorded_at: Option<DateTime<Utc>>,
    #[schema(required)]
    pub completed_at: Option<DateTime<Utc>>,
    /// `pending`, `missing`, `other_version`, `unreadable` or `readable`. A list does not validate
    /// reports: the run itself says whether its report is valid.
    pub report: &'static str,
    /// Null without a report that can be read.
    #[schema(required)]
    pub overall: Option<Overall>,
    #[schema(required)]
    pub fingerprint: Option<String>,
    /// Reason code of the most important problem.
    #[schema(required)]
    pub main_reason: Option<String>,
    /// Checks that failed or warn.
    pub problems: u64,
    /// Path of the run.
    pub href: String,
}

impl From<RunSummary> for RunItem {
    fn from(run: RunSummary) -> Self {
        Self {
            operation_run_id: run.id.0,
            workspace_id: run.workspace_id.map(|id| id.0),
            tenant_id: run.tenant_id.map(|id| id.0),
            provider_connection_id: run.provider_connection_id.map(|id| id.0),
            provider: run.provider,
            module: run.module,
            display_name: run.display_name,
            status: run.status,
            outcome: run.outcome,
            recorded_at: run.created_at,
            completed_at: run.completed_at,
            report: run.report.as_str(),
            overall: run.overall,
            fingerprint: run.fingerprint,
            main_reason: run.reason_code,
            problems: run.problems,
            href: href(run.id),
        }
    }
}

/// The path of a run.
pub fn href(id: RunId) -> String {
    format!("/v1/runs/{id}")
}

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
            module: fields.text("module", MODULE_CHARS),
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
        (status = 413, description = "The body is too large", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid, or the key was used for another request", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn start_check(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<ConnectionId>,
    once: Once,
    body: JsonBody<StartCheck>,
) -> Result<Response, Problem> {
    let connection = api.store.connection_state(id, &caller.binding()).await?;
    let connection = connection.ok_or_else(Problem::not_found)?;
    if let Some(problem) = connection.problem {
        return Err(Problem::new(
            Kind::Unusable,
            format!("The connection's row cannot be used: {problem}."),
        ));
    }
    let connection = connection.connection;
    module_is_known(&api, &connection, body.read.module.as_deref())?;
    let reach = caller.binding();
    let work = start(Arc::clone(&api), connection, reach, body.read);
    once.answer(&api, &caller, &body.bytes, work).await
}

fn module_is_known(
    api: &Api,
    connection: &ProviderConnection,
    module: Option<&str>,
) -> Result<(), Problem> {
    let (Some(module), Some(provider)) = (module, api.providers.get(&connection.provider)) else {
        return Ok(());
    };
    let modules = provider.modules();
    if modules.contains(&module) {
        return Ok(());
    }
    let error = FieldError::new("module", "is not known", modules.join(", "));
    Err(Problem::invalid(Kind::InvalidBody, vec![error]))
}

async fn start(
    api: Arc<Api>,
    connection: ProviderConnection,
    reach: Binding,
    asked: StartCheck,
) -> Result<Answer, Problem> {
    let module = asked.module.as_deref();
    let (store, queue) = (&*api.store, api.queue.as_deref());
    let started = match asked.onboarding_session_id {
        None => {
            operations::start_check::start_check(store, queue, &api.providers, &connection, module)
                .await?
        }
        Some(id) => {
            let session = ForSession { id, reach };
            start_check_for_session(store, queue, &api.providers, &connection, module, session)
                .await
                .map_err(not_started)?
        }
    };
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
    Ok(Answer {
        status: if recorded.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        location: Some(href(recorded.run_id)),
        body: serde_json::to_value(&started)
            .map_err(|_| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?,
    })
}

/// A session that is out of the token's reach is answered as one that does not exist.
fn not_started(error: StartCheckError) -> Problem {
    match error {
        StartCheckError::Store(error) => error.into(),
        StartCheckError::Session(SessionError::Missing(_)) => Problem::not_found(),
        StartCheckError::Session(SessionError::Foreign(_)) => Problem::field(
            Kind::InvalidBody,
            "onboarding_session_id",
            "is not for this connection",
            "a session of the connection's workspace, and of its tenant or of none",
        ),
        StartCheckError::Session(SessionError::Unreadable(_, problem)) => Problem::field(
            Kind::InvalidBody,
            "onboarding_session_id",
            &format!("names a session whose state cannot be read: {problem}"),
            "a session whose state verifyd can read and write",
        ),
    }
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
    let filter = RunFilter {
        binding: caller.binding(),
        status: query.status,
        outcome: query.outcome,
        connection: query.connection,
        tenant: query.tenant,
        before: query.before,
        limit: query.limit + 1,
    };
    let runs = api.store.runs(&filter).await?;
    let items: Vec<RunItem> = runs.into_iter().map(RunItem::from).collect();
    let next = |last: &RunItem| {
        page::href(
            "/v1/runs",
            &[
                ("status", query.status.map(|s| s.to_string())),
                ("outcome", query.outcome.map(|o| o.to_string())),
                ("connection", query.connection.map(|id| id.to_string())),
                ("tenant", query.tenant.map(|id| id.to_string())),
                ("before", Some(last.operation_run_id.to_string())),
                ("limit", Some(query.limit.to_string())),
            ],
        )
    };
    json(StatusCode::OK, &Page::of(items, query.limit, next))
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
        (status = 200, description = "The run", body = ref("#/components/schemas/Run")),
        (status = 404, description = "No such run", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_run(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<RunId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let record = operations::read_run::read_run(&*api.store, id).await?;
    let record = record.ok_or_else(Problem::not_found)?;
    caller.admit(record.run.workspace_id, record.run.tenant_id)?;
    json(StatusCode::OK, &RunDetail::of(&record, api.clock.now()))
}
