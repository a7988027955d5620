//! Connections with what is known of them now.

use super::auth::Caller;
use super::input::{Fields, FromFields, Nothing, PathId, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::connection::ConnectionStatus;
use crate::domain::{ConnectionId, TenantId};
use crate::http::list::{List, Page};
use crate::operations::find_connection;
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use crate::view::ConnectionView;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;
use utoipa::IntoParams;

/// Characters of a part of a name.
const NAME_CHARS: usize = 100;
/// What `overall` may be asked for.
const OVERALL: &[&str] = &["ready", "needs_attention", "blocked", "never"];

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
    #[param(value_type = Option<String>, pattern = "^((never|-?[0-9]{1,18})_)?-?[0-9]{1,19}$")]
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
            name: fields.text("name", NAME_CHARS, false),
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
    responses((status = 200, description = "A page of connections", body = Page<ConnectionView>)),
)]
pub async fn list_connections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<ConnectionQuery>,
) -> Result<Response, Problem> {
    let sort = Some(query.sort).filter(|sort| *sort != ConnectionSort::Id);
    let list = List::with_limit("/v1/connections", "after", query.limit)
        .with("tenant", query.tenant)
        .with("status", query.status)
        .with("overall", query.overall.as_deref())
        .with("name", query.name.as_deref())
        .with("sort", sort);
    let filter = ConnectionFilter {
        binding: caller.binding(),
        tenant: query.tenant,
        status: query.status,
        overall: query.overall,
        name: query.name,
        sort: query.sort,
        after: query.after,
        limit: list.rows(),
    };
    let found = caller.reads(&api).connection_states(&filter).await?;
    let page = list.page(found, |last| ConnectionCursor::at(last, query.sort));
    json(StatusCode::OK, &page.map(ConnectionView::from))
}

/// One connection with its latest state
#[utoipa::path(
    get,
    path = "/connections/{connection_id}",
    tag = "connections",
    params(("connection_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The connection", body = ConnectionView),
        (status = 404, description = "No such connection", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_connection(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<ConnectionId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let found = find_connection(caller.reads(&api), &caller.binding(), id).await?;
    json(StatusCode::OK, &ConnectionView::from(found))
}
