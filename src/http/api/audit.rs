//! The audit trail.

use super::auth::Caller;
use super::input::{Fields, FromFields, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::acknowledgement::PERSON_CHARS;
use crate::domain::audit::{AuditAction, AuditObject};
use crate::domain::{AuditEntryId, ObjectId, TokenId};
use crate::http::list::{List, Page};
use crate::ports::audit::AuditFilter;
use crate::view::AuditEntryView;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use std::sync::Arc;
use utoipa::IntoParams;

/// Which entries to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    #[param(inline)]
    pub action: Option<AuditAction>,
    /// What `object_id` is the id of.
    #[param(inline)]
    pub object: Option<AuditObject>,
    /// Id of a token, connection, acknowledgement or webhook endpoint, as `object` says.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub object_id: Option<i64>,
    /// Id of the token that it was done with.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub token: Option<TokenId>,
    /// Name of the actor, all of it.
    #[param(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\u0000-\u001f\u007f-\u009f\s][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    pub actor: Option<String>,
    /// Only entries of this time or later. A date alone is the beginning of that day, in UTC.
    #[param(value_type = Option<String>, pattern = r"^(19[7-9][0-9]|[2-9][0-9]{3})-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z)?$")]
    pub since: Option<DateTime<Utc>>,
    /// Only entries of this time or earlier. A date alone is the end of that day, in UTC.
    #[param(value_type = Option<String>, pattern = r"^(19[7-9][0-9]|[2-9][0-9]{3})-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z)?$")]
    pub until: Option<DateTime<Utc>>,
    /// Only entries with a smaller id: the cursor.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub before: Option<AuditEntryId>,
    /// Most rows of the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: u32,
}

impl FromFields for AuditQuery {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            action: fields.name("action"),
            object: fields.name("object"),
            object_id: fields.id("object_id").map(|ObjectId(id)| id),
            token: fields.id("token"),
            actor: fields.text("actor", PERSON_CHARS, false),
            since: fields.since("since"),
            until: fields.time("until"),
            before: fields.id("before"),
            limit: fields.limit(),
        }
    }
}

/// The audit trail, newest first
///
/// Of what belongs to no workspace only a token sees entries that is bound to none.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "installation",
    params(AuditQuery),
    responses((status = 200, description = "A page of entries", body = Page<AuditEntryView>)),
)]
pub async fn list_audit_entries(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let list = List::with_limit("/v1/audit", "before", query.limit)
        .with("action", query.action)
        .with("object", query.object)
        .with("object_id", query.object_id)
        .with("token", query.token)
        .with("actor", query.actor.as_deref())
        .with("since", query.since.map(time))
        .with("until", query.until.map(time));
    let filter = AuditFilter {
        binding: caller.binding(),
        action: query.action,
        object: query.object,
        object_id: query.object_id,
        token: query.token,
        actor: query.actor,
        since: query.since,
        until: query.until,
        before: query.before,
        limit: list.rows(),
    };
    let found = caller.reads(&api).audit_entries(&filter).await?;
    let page = list.page(found, |last| last.id);
    json(StatusCode::OK, &page.map(AuditEntryView::from))
}
