//! Acknowledgements: list them, acknowledge a check, withdraw that.

use super::auth::Caller;
use super::idempotency::{Answer, IdempotentRequest};
use super::input::{Fields, FromFields, JsonBody, Nothing, PathId, Query};
use super::problem::Problem;
use super::{Api, json};
use crate::domain::acknowledgement::{Acknowledgement, PERSON_CHARS, REASON_CHARS};
use crate::domain::{AcknowledgementId, ConnectionId, RunId};
use crate::http::list::List;
use crate::operations::acknowledge::{self as operation, Request, acknowledge, withdraw};
use crate::ports::access::AnswerSubject;
use crate::ports::acknowledgements::AcknowledgementFilter;
use crate::view::AcknowledgementView;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Characters of a check's key.
const KEY_CHARS: usize = 120;

/// What is acknowledged, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "check_key": "permissions.organization_read_all",
    "reason": "Granted with the next change window",
    "acknowledged_by": "Ada",
    "expires_at": "2030-01-31T12:00:00Z",
}))]
pub struct Acknowledge {
    /// Key of a check of the run's report that failed or warns.
    #[schema(min_length = 1, max_length = 120)]
    pub check_key: String,
    /// Why it is accepted.
    #[schema(min_length = 1, max_length = 2000)]
    pub reason: String,
    /// The person; the token's name if absent. The token is kept beside it either way.
    #[schema(min_length = 1, max_length = 200)]
    pub acknowledged_by: Option<String>,
    /// In the future. Absent: as long as status and reason code of the check stay what they are.
    pub expires_at: Option<DateTime<Utc>>,
}

impl FromFields for Acknowledge {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            check_key: fields.required_text("check_key", KEY_CHARS, false),
            reason: fields.required_text("reason", REASON_CHARS, true),
            acknowledged_by: fields.text("acknowledged_by", PERSON_CHARS, false),
            expires_at: fields.time("expires_at"),
        }
    }
}

/// Who withdraws.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Withdraw {
    /// The person; the token's name if absent. The token is kept beside it either way.
    #[schema(min_length = 1, max_length = 200)]
    pub withdrawn_by: Option<String>,
}

impl FromFields for Withdraw {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            withdrawn_by: fields.text("withdrawn_by", PERSON_CHARS, false),
        }
    }
}

/// The acknowledgement of a check.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Acknowledged {
    /// False: there was an active one on this check of this run, and this is it.
    pub created: bool,
    pub acknowledgement: AcknowledgementView,
}

/// A page of acknowledgements.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AcknowledgementPage {
    pub items: Vec<AcknowledgementView>,
    /// Path of the next page; null on the last one.
    pub next: Option<String>,
}

fn href(id: AcknowledgementId) -> String {
    format!("/v1/acknowledgements/{id}")
}

/// Acknowledge a check of a completed run
///
/// It is carried to later runs of the connection for as long as the check's status and reason code
/// stay what they are. It changes no status, no outcome and no fingerprint.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/acknowledgements",
    tag = "acknowledgements",
    params(
        ("run_id" = i64, Path, minimum = 1),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
         pattern = "^[!-~]+$",
         description = "What is asked again under the same key is answered again, not done again."),
    ),
    request_body = Acknowledge,
    responses(
        (status = 201, description = "It is acknowledged", body = Acknowledged,
         headers(("Location" = String, description = "Path of the acknowledgement"))),
        (status = 200, description = "It was acknowledged before", body = Acknowledged,
         headers(("Location" = String, description = "Path of the acknowledgement"))),
        (status = 404, description = "No such run", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The run is not completed, has no report that can be read, or a request with this key is being answered", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn acknowledge_check(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<RunId>,
    idempotent: IdempotentRequest,
    body: JsonBody<Acknowledge>,
) -> Result<Response, Problem> {
    let asked = Request {
        run: id,
        reach: caller.binding(),
        check_key: body.read.check_key,
        reason: body.read.reason,
        by: body.read.acknowledged_by,
        through: caller.origin(),
        expires_at: body.read.expires_at,
    };
    let work = {
        let api = Arc::clone(&api);
        async move {
            let now = api.clock.now();
            let done = acknowledge(&*api.store, &asked, now).await?;
            let shown = Acknowledged {
                created: done.created,
                acknowledgement: AcknowledgementView::of(&done.acknowledgement, id, now),
            };
            let id = done.acknowledgement.id;
            let subject = AnswerSubject::Acknowledgement(id);
            Answer::made(done.created, href(id), &shown, subject)
        }
    };
    idempotent.answer(&api, &caller, &body.bytes, work).await
}

/// Withdraw an acknowledgement
///
/// It stays as history. One that was withdrawn before is returned as it is.
#[utoipa::path(
    post,
    path = "/acknowledgements/{acknowledgement_id}/withdrawal",
    tag = "acknowledgements",
    params(
        ("acknowledgement_id" = i64, Path, minimum = 1),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
         pattern = "^[!-~]+$",
         description = "What is asked again under the same key is answered again, not done again."),
    ),
    request_body(content = Option<Withdraw>, description = "May be left out"),
    responses(
        (status = 200, description = "It is withdrawn", body = AcknowledgementView),
        (status = 404, description = "No such acknowledgement", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A request with this key is being answered", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn withdraw_acknowledgement(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<AcknowledgementId>,
    idempotent: IdempotentRequest,
    body: JsonBody<Withdraw>,
) -> Result<Response, Problem> {
    let (reach, through) = (caller.binding(), caller.origin());
    let work = {
        let api = Arc::clone(&api);
        async move {
            let by = body.read.withdrawn_by.as_deref();
            let withdrawn = withdraw(&*api.store, &reach, id, by, &through).await?;
            let subject = AnswerSubject::Acknowledgement(withdrawn.id);
            Answer::of(&shown(&withdrawn, api.clock.now()), subject)
        }
    };
    idempotent.answer(&api, &caller, &body.bytes, work).await
}

/// One acknowledgement
#[utoipa::path(
    get,
    path = "/acknowledgements/{acknowledgement_id}",
    tag = "acknowledgements",
    params(("acknowledgement_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The acknowledgement", body = AcknowledgementView),
        (status = 404, description = "No such acknowledgement", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn read_acknowledgement(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId<AcknowledgementId>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let found = operation::read_acknowledgement(caller.reads(&api), &caller.binding(), id).await?;
    json(StatusCode::OK, &shown(&found, api.clock.now()))
}

/// Which acknowledgements to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AcknowledgementQuery {
    /// Made on this run. What a run inherits stands with the run itself.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub run: Option<RunId>,
    /// Id of a connection.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub connection: Option<ConnectionId>,
    /// Only those that are neither withdrawn nor expired.
    #[param(value_type = Option<bool>, default = false)]
    pub active: bool,
    /// Only acknowledgements with a smaller id: the cursor.
    #[param(value_type = Option<i64>, minimum = 1)]
    pub before: Option<AcknowledgementId>,
    /// Most rows of the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: u32,
}

impl FromFields for AcknowledgementQuery {
    fn from_fields(fields: &mut Fields) -> Self {
        Self {
            run: fields.id("run"),
            connection: fields.id("connection"),
            active: fields.flag("active").unwrap_or_default(),
            before: fields.id("before"),
            limit: fields.limit(),
        }
    }
}

/// Acknowledgements, newest first
#[utoipa::path(
    get,
    path = "/acknowledgements",
    tag = "acknowledgements",
    params(AcknowledgementQuery),
    responses((status = 200, description = "A page of acknowledgements", body = AcknowledgementPage)),
)]
pub async fn list_acknowledgements(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<AcknowledgementQuery>,
) -> Result<Response, Problem> {
    let list = List::with_limit("/v1/acknowledgements", "before", query.limit)
        .with("run", query.run)
        .with("connection", query.connection)
        .with("active", query.active.then_some(true));
    let filter = AcknowledgementFilter {
        binding: caller.binding(),
        run: query.run,
        connection: query.connection,
        active_only: query.active,
        before: query.before,
        limit: list.rows(),
    };
    let found = caller.reads(&api).acknowledgements(&filter).await?;
    let now = api.clock.now();
    let page = list.page(found, |last| last.id);
    let page = page.map(|one| shown(&one, now));
    let page = AcknowledgementPage {
        items: page.items,
        next: page.next,
    };
    json(StatusCode::OK, &page)
}

fn shown(acknowledgement: &Acknowledgement, now: DateTime<Utc>) -> AcknowledgementView {
    AcknowledgementView::of(acknowledgement, acknowledgement.operation_run_id, now)
}
