//! The report of a run, as it is stored, and what changed against the one before.

use super::auth::Caller;
use super::input::{Nothing, PathId, Query};
use super::problem::{FieldError, Kind, Problem};
use super::{Api, json};
use crate::domain::RunId;
use crate::domain::run::OperationRun;
use crate::domain::token::sha256_hex;
use crate::operations::{find_run, read_run};
use crate::view::diff::DiffState;
use crate::view::report::ReportState;
use crate::view::{DiffView, RunView};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use std::sync::Arc;

/// The report of a run
///
/// Exactly the stored document. It never changes once the run is completed.
#[utoipa::path(
    get,
    path = "/runs/{run_id}/report",
    tag = "runs",
    params(
        ("run_id" = i64, Path, minimum = 1),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The report", body = ref("#/components/schemas/VerificationReport"),
         headers(("ETag" = String))),
        (status = 304, description = "It is the one that the caller has"),
        (status = 404, description = "No such run, or it has no report", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "What is stored is no report of this version", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_report(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<RunId>,
    headers: HeaderMap,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let run = find_run(caller.reads(&api), &caller.binding(), id).await?;
    readable(&api, &run)?;
    let text = run.report().unwrap_or_default().to_owned();
    let tag = format!("\"{}\"", &sha256_hex(&text)[..32]);
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().trim_start_matches("W/") == tag || value.trim() == "*");
    let mut response = Response::new(Body::empty());
    let answer = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    let private = HeaderValue::from_static("private, no-cache");
    answer.insert(header::CACHE_CONTROL, private);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let json = HeaderValue::from_static("application/json");
    answer.insert(header::CONTENT_TYPE, json);
    *response.body_mut() = Body::from(text);
    Ok(response)
}

/// Whether the run's report can be read, else what is the matter with it.
fn readable(api: &Api, run: &OperationRun) -> Result<(), Problem> {
    let view = RunView::of(run, &[], api.clock.now());
    let unreadable = |problems: Vec<FieldError>, detail: String| Problem {
        errors: problems,
        ..Problem::new(Kind::UnreadableReport, detail)
    };
    match view.report {
        ReportState::Readable { .. } => Ok(()),
        ReportState::Pending => Err(Problem::new(Kind::NoReport, "The run is not completed.")),
        ReportState::Missing => Err(Problem::new(Kind::NoReport, view.verdict)),
        ReportState::OtherVersion { .. } => Err(unreadable(Vec::new(), view.verdict)),
        ReportState::Unreadable { problems } => {
            let problems = problems.into_iter().map(|problem| FieldError {
                field: "verification_report".to_owned(),
                problem,
                allowed: None,
            });
            Err(unreadable(problems.collect(), view.verdict))
        }
    }
}

/// What changed against the previous report of the connection
#[utoipa::path(
    get,
    path = "/runs/{run_id}/diff",
    tag = "runs",
    params(("run_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The comparison, or why there is none", body = DiffView),
        (status = 404, description = "No such run, or it has no report", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_diff(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<RunId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let record = read_run(caller.reads(&api), &caller.binding(), id).await?;
    let diff = DiffView::of(&record.run, record.previous.as_ref());
    if diff.state == DiffState::NoReport {
        readable(&api, &record.run)?;
    }
    json(StatusCode::OK, &diff)
}
