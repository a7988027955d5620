//! Onboarding sessions: the run that each points to.

use super::auth::Caller;
use super::input::{Nothing, PathId, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::SessionId;
use crate::operations::read_session;
use crate::view::OnboardingView;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

/// An onboarding session with the run that it points to
#[utoipa::path(
    get,
    path = "/onboarding-sessions/{onboarding_session_id}",
    tag = "onboarding",
    params(("onboarding_session_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The session", body = OnboardingView),
        (status = 404, description = "No such session", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_onboarding_session(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<SessionId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let record = read_session(caller.reads(&api), &caller.binding(), id).await?;
    json(
        StatusCode::OK,
        &OnboardingView::of(&record, api.clock.now()),
    )
}
