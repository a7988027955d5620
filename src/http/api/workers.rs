//! The worker processes.

use super::auth::Caller;
use super::input::{Nothing, Query};
use super::problem::{Kind, Problem};
use super::{Api, json};
use crate::domain::access::Binding;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A worker process that beat within the last day.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Worker {
    pub worker_id: String,
    pub version: String,
    /// Runs that it works on at a time, at most.
    pub concurrency: u32,
    /// Runs that it works on now.
    pub in_flight: u32,
    pub started_at: DateTime<Utc>,
    pub beat_at: DateTime<Utc>,
}

/// All of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Workers {
    pub items: Vec<Worker>,
}

/// The worker processes
///
/// They belong to no workspace, so the token must not be bound to one.
#[utoipa::path(
    get,
    path = "/workers",
    tag = "installation",
    responses((status = 200, description = "All that beat within the last day", body = Workers)),
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
    let found = api.store.workers().await?;
    let items = found.into_iter().map(|worker| Worker {
        worker_id: worker.worker_id,
        version: worker.version,
        concurrency: worker.concurrency,
        in_flight: worker.in_flight,
        started_at: worker.started_at,
        beat_at: worker.beat_at,
    });
    let workers = Workers {
        items: items.collect(),
    };
    json(StatusCode::OK, &workers)
}
