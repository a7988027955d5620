//! Connections with what is known of them now.

use super::auth::Caller;
use super::input::{Fields, FromFields, Nothing, PathId, Query};
use super::page::{self, Page};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::connection::ConnectionStatus;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::run::Outcome;
use crate::domain::{ConnectionId, TenantId};
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort, ConnectionState};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Characters of a part of a name.
const NAME_CHARS: usize = 100;
/// What `overall` may be asked for.
const OVERALL: &[&str] = &["ready", "needs_attention", "blocked", "never"];

/// A connection and its latest state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Connection {
    pub provider_connection_id: i64,
    pub workspace_id: i64,
    pub tenant_id: i64,
    pub provider: String,
    #[schema(required)]
    pub display_name: Option<String>,
    pub status: ConnectionStatus,
    /// Of an unusable connection: which column of its row holds what it must not hold. An id that is not
    /// there is 0.
    #[schema(required)]
    pub problem: Option<String>,
    #[schema(required)]
    pub entra_tenant_id: Option<String>,
    #[schema(required)]
    pub client_id: Option<String>,
    #[schema(required)]
    pub cloud: Option<String>,
    #[schema(required)]
    pub module: Option<String>,
    #[schema(required)]
    pub created_at: Option<DateTime<Utc>>,
    #[schema(required)]
    pub updated_at: Option<DateTime<Utc>>,
    /// Null: never checked.
    #[schema(required)]
    pub latest_report: Option<LatestReport>,
    /// A run of it that is queued or running.
    #[schema(required)]
    pub active_run_id: Option<i64>,
    /// Name of the directory, as it says itself.
    #[schema(required)]
    pub entra_tenant_name: Option<String>,
    /// When the credential expires. Null: never, where there is a source; else it is not known.
    #[schema(required)]
    pub credential_expires_at: Option<DateTime<Utc>>,
    /// Where that was found. Null: it is not known.
    #[schema(required)]
    pub credential_expiry_source: Option<ExpirySource>,
    /// When a check found it first.
    #[schema(required)]
    pub credential_expiry_found_at: Option<DateTime<Utc>>,
    /// Path of the connection.
    pub href: String,
}

/// The latest report of a connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LatestReport {
    pub operation_run_id: i64,
    pub fingerprint: String,
    /// `summary.overall` of the report.
    pub overall: String,
    pub outcome: Outcome,
    pub completed_at: DateTime<Utc>,
    /// Path of the report.
    pub href: String,
}

impl From<ConnectionState> for Connection {
    fn from(state: ConnectionState) -> Self {
        let connection = state.connection;
        Self {
            provider_connection_id: connection.id.0,
            workspace_id: connection.workspace_id.0,
            tenant_id: connection.tenant_id.0,
            provider: connection.provider,
            display_name: connection.display_name,
            status: connection.status,
            problem: state.problem,
            entra_tenant_id: connection.entra_tenant_id,
            client_id: connection.client_id,
            cloud: connection.cloud,
            module: connection.module,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            latest_report: state.latest_report.map(|latest| LatestReport {
                href: format!("{}/report", super::runs::href(latest.operation_run_id)),
                operation_run_id: latest.operation_run_id.0,
                fingerprint: latest.fingerprint,
                overall: latest.overall,
                outcome: latest.outcome,
                completed_at: latest.completed_at,
            }),
            active_run_id: state.active_run_id.map(|id| id.0),
            entra_tenant_name: state.facts.entra_tenant_name,
            credential_expires_at: state.facts.credential_expires_at,
            credential_expiry_source: state.facts.credential_expiry_source,
            credential_expiry_found_at: state.facts.credential_expiry_found_at,
            href: format!("/v1/connections/{}", connection.id),
        }
    }
}

/// Which connections to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectionQuery {
    /// Id of a tenant.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub tenant: Option<TenantId>,
    #[param(inline)]
    pub status: Option<ConnectionStatus>,
    /// What the latest report says: ready, needs_attention or blocked; never for those that were
    /// never checked.
    #[param(pattern = "^(ready|needs_attention|blocked|never)$")]
    pub overall: Option<String>,
    /// Part of the display name, in any case.
    #[param(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\u0000-\u001f\u007f-\u009f\s][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    pub name: Option<String>,
    /// `id`, the default; or `expiry`: by when their credentials expire, the earliest first, those that never
    /// do or of which it is not known last.
    #[param(value_type = Option<String>, pattern = "^(id|expiry)$")]
    pub sort: ConnectionSort,
    /// The cursor that the page before ends with, as it stands in `next`: only what comes after it in that order.
    #[param(value_type = Option<String>, pattern = "^((never|-?[0-9]{1,17})_)?[1-9][0-9]{0,17}$")]
    pub after: Option<ConnectionCursor>,
    /// Most rows of the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: u32,
}

impl FromFields for ConnectionQuery {
    fn from_fields(fields: &mut Fields) -> Self {
        let sort = fields.name("sort").unwrap_or_default();
        Self {
            tenant: fields.id("tenant"),
            status: fields.name("status"),
            overall: fields.word("overall", OVERALL),
            name: fields.text("name", NAME_CHARS),
            sort,
            after: fields.cursor("after", |cursor: &ConnectionCursor| cursor.sort() == sort),
            limit: fields.limit(),
        }
    }
}

/// Connections with their latest state, in the order of their ids or of the expiry of their credentials
#[utoipa::path(
    get,
    path = "/connections",
    tag = "connections",
    params(ConnectionQuery),
    responses((status = 200, description = "A page of connections", body = Page<Connection>)),
)]
pub async fn list_connections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<ConnectionQuery>,
) -> Result<Response, Problem> {
    let filter = ConnectionFilter {
        binding: caller.binding(),
        tenant: query.tenant,
        status: query.status,
        overall: query.overall.clone(),
        name: query.name.clone(),
        sort: query.sort,
        after: query.after,
        limit: query.limit + 1,
    };
    let found = api.store.connection_states(&filter).await?;
    let next = |last: &ConnectionState| {
        page::href(
            "/v1/connections",
            &[
                ("tenant", query.tenant.map(|id| id.to_string())),
                ("status", query.status.map(|s| s.to_string())),
                ("overall", query.overall.clone()),
                ("name", query.name.clone()),
                (
                    "sort",
                    (query.sort != ConnectionSort::Id).then(|| query.sort.to_string()),
                ),
                (
                    "after",
                    Some(ConnectionCursor::at(last, query.sort).to_string()),
                ),
                ("limit", Some(query.limit.to_string())),
            ],
        )
    };
    let page = Page::of(found, query.limit, next);
    json(StatusCode::OK, &page.map(Connection::from))
}

/// One connection with its latest state
#[utoipa::path(
    get,
    path = "/connections/{connection_id}",
    tag = "connections",
    params(("connection_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The connection", body = Connection),
        (status = 404, description = "No such connection", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_connection(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<ConnectionId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let found = api.store.connection_state(id, &caller.binding()).await?;
    let found = found.ok_or_else(Problem::not_found)?;
    json(StatusCode::OK, &Connection::from(found))
}
