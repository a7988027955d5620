//! The worker processes.

use super::auth::Caller;
use super::input::{Nothing, Query};
use super::problem::{Kind, Problem};
use super::{Api, json};
use crate::domain::access::Binding;
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
/// They belong to no workspace, so the token must not be bound to one.
#[utoipa::path(
    get,
    path = "/workers",
    tag = "installation",
    responses((status = 200, description = "All that sent a heartbeat within the last day", body = Workers)),
)]
pub async fn list_workers(
    State(api): State<Arc<Api>>,
    caller: Caller,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    if caller.binding() != Binding::EVERYTHING {
        let detail = "The token is bound to a workspace; workers belong to none.";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let items = api.store.workers().await?;
    json(StatusCode::OK, &Workers { items })
}
