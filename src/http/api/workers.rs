//! The worker processes.

use super::auth::Caller;
use super::input::{Nothing, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::operations;
use crate::ports::workers::WorkerRecord;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// All of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Workers {
    pub items: Vec<WorkerRecord>,
}

/// The worker processes
///
/// They belong to no workspace. A token with `admin` that is bound, as earlier builds made them, gets 404.
#[utoipa::path(
    get,
    path = "/workers",
    tag = "installation",
    responses(
        (status = 200, description = "All that sent a heartbeat within the last day", body = Workers),
        (status = 404, description = "A token with `admin` that is bound, as earlier builds made them", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn list_workers(
    State(api): State<Arc<Api>>,
    caller: Caller,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let items = operations::list_workers(&*api.store, &caller.binding()).await?;
    json(StatusCode::OK, &Workers { items })
}
