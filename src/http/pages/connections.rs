//! `GET /connections`, one of them, and the button that checks it again.

use super::error::{PageError, id, render};
use super::format::{Moment, parse};
use super::input::{Form, Path, Query};
use super::layout::{Choice, Layout};
use super::runs::{Line, lines};
use super::session::{Confirmation, Visitor};
use super::{Pages, ROWS};
use crate::domain::access::{Binding, Scope};
use crate::domain::connection::ConnectionStatus;
use crate::domain::overview::TrendPoint;
use crate::domain::{ConnectionId, TenantId};
use crate::http::list::List;
use crate::operations::{CheckRequest, find_connection, start_check};
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use crate::ports::store::RunFilter;
use crate::view::ConnectionView;
use crate::view::connection::{Standing, StripCell};
use crate::view::words;
use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// Characters of a part of a name.
const NAME_CHARS: usize = 100;
/// Runs in the strip of one connection.
const STRIP: u32 = 14;
/// Runs in the list of one connection.
const LAST_RUNS: u32 = 20;

/// What the list is narrowed to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    state: String,
    name: String,
    tenant: String,
    sort: String,
    after: String,
}

/// One cell of the strip.
struct Cell {
    run: i64,
    class: &'static str,
    label: String,
}

/// One connection of the list.
pub struct Row {
    view: ConnectionView,
    checked: Option<Moment>,
    /// When the credential expires.
    expires: Option<Moment>,
    /// In place of a date.
    expiry_words: &'static str,
    strip: Vec<Cell>,
    /// Nothing to wait for, and enabled.
    checkable: bool,
}

#[derive(Template)]
#[template(path = "connections.html")]
struct ConnectionsPage {
    page: Layout,
    rows: Vec<Row>,
    filter: Filter,
    choices: Vec<Choice>,
    by_expiry: bool,
    filtered: bool,
    first: Option<String>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "connection.html")]
struct ConnectionPage {
    page: Layout,
    row: Row,
    /// Over the latest report.
    verdict: Option<String>,
    runs: Vec<Line>,
    all_runs: String,
    /// What a person types for the same.
    command: String,
}

const CHOICES: [Standing; 6] = [
    Standing::Blocked,
    Standing::NeedsAttention,
    Standing::Ready,
    Standing::Never,
    Standing::Disabled,
    Standing::Unusable,
];

/// `GET /connections`
pub async fn list(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, PageError> {
    let state = CHOICES.into_iter().find(|s| s.as_str() == filter.state);
    let tenant: Option<TenantId> = parse(&filter.tenant, "tenant")?;
    let sort = match filter.sort.as_str() {
        "expiry" => ConnectionSort::Expiry,
        _ => ConnectionSort::Id,
    };
    let after = match filter.after.as_str() {
        "" => None,
        text => {
            let cursor = text.parse().ok();
            let cursor = cursor.filter(|cursor: &ConnectionCursor| cursor.sort() == sort);
            Some(cursor.ok_or_else(|| {
                let refused =
                    "after is not where a page of this list ended: start at its first page.";
                PageError::Refused(refused.into())
            })?)
        }
    };
    let name = filter.name.trim();
    if name.chars().any(char::is_control) || name.chars().count() > NAME_CHARS {
        return Err(PageError::Refused(format!(
            "A part of a name has at most {NAME_CHARS} characters, none of them a control one."
        )));
    }
    let list = List::new("/connections", "after", ROWS)
        .with("state", state.map(Standing::as_str))
        .with("tenant", tenant)
        .with("name", (!name.is_empty()).then_some(name))
        .with("sort", (sort == ConnectionSort::Expiry).then_some(sort));
    let store = visitor.reads(&pages);
    let found = store
        .connection_states(&ConnectionFilter {
            binding: visitor.binding,
            tenant,
            status: state.map(|s| match s {
                Standing::Disabled => ConnectionStatus::Disabled,
                Standing::Unusable => ConnectionStatus::Unusable,
                _ => ConnectionStatus::Enabled,
            }),
            overall: state
                .filter(|s| !matches!(s, Standing::Disabled | Standing::Unusable))
                .map(|s| s.as_str().to_owned()),
            name: (!name.is_empty()).then(|| name.to_owned()),
            sort,
            after,
            limit: list.rows(),
        })
        .await?;
    let found = list.page(found, |last| ConnectionCursor::at(last, sort));
    let ids: Vec<ConnectionId> = found.items.iter().map(|s| s.connection.id).collect();
    let trend = store.trend(&ids, STRIP).await?;
    let now = pages.clock.now();
    let rows = found
        .items
        .into_iter()
        .map(|state| row(state.into(), &trend, now));
    Ok(render(&ConnectionsPage {
        page: Layout::of(&visitor, "connections", "Connections").live("/live"),
        rows: rows.collect(),
        choices: CHOICES
            .into_iter()
            .map(|s| Choice {
                value: s.as_str(),
                words: s.words(),
                chosen: state == Some(s),
            })
            .collect(),
        by_expiry: sort == ConnectionSort::Expiry,
        filtered: state.is_some() || tenant.is_some() || !name.is_empty(),
        first: after.map(|_| list.first()),
        next: found.next,
        filter,
    }))
}

fn row(view: ConnectionView, trend: &[TrendPoint], now: DateTime<Utc>) -> Row {
    let latest = view.latest_report.as_ref();
    Row {
        checked: Moment::maybe(latest.map(|latest| latest.completed_at), now),
        expires: Moment::maybe(view.credential_expires_at, now),
        expiry_words: words::expiry(view.credential_expires_at, view.credential_expiry_source),
        strip: StripCell::of_connection(view.provider_connection_id, trend)
            .iter()
            .map(|c| cell(c, now))
            .collect(),
        checkable: view.active_run_id.is_none() && view.status == ConnectionStatus::Enabled,
        view,
    }
}

fn cell(cell: &StripCell, now: DateTime<Utc>) -> Cell {
    let ago =
        Moment::maybe(cell.completed_at, now).map_or(String::new(), |m| format!(", {}", m.ago));
    Cell {
        run: cell.operation_run_id,
        class: cell.standing.as_str(),
        label: format!(
            "Run {}: {}{ago}",
            cell.operation_run_id,
            cell.standing.words().to_lowercase()
        ),
    }
}

/// `GET /connections/{id}`
pub async fn one(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
) -> Result<Response, PageError> {
    let id: ConnectionId = id(&path)?;
    let store = visitor.reads(&pages);
    let state = find_connection(store, &visitor.binding, id).await?;
    let trend = store.trend(&[id], STRIP).await?;
    let now = pages.clock.now();
    let runs = store
        .runs(&RunFilter {
            // Runs of other tenants may name this connection; they are not its own.
            binding: Binding {
                workspace_id: Some(state.connection.workspace_id),
                tenant_id: Some(state.connection.tenant_id),
            },
            connection: Some(id),
            limit: LAST_RUNS,
            ..RunFilter::default()
        })
        .await?;
    let row = row(state.into(), &trend, now);
    let runs = lines(runs, now);
    let latest = row.view.latest_report.as_ref();
    let latest = latest.and_then(|latest| {
        let mut runs = runs.iter();
        runs.find(|run| run.item.operation_run_id == latest.operation_run_id)
    });
    Ok(render(&ConnectionPage {
        page: Layout::of(&visitor, "connections", row.view.title.clone()).live("/live"),
        verdict: latest.map(|run| run.item.verdict.clone()),
        runs,
        all_runs: format!("/runs?connection={id}"),
        command: format!("verifyd enqueue --connection {id} --wait 60"),
        row,
    }))
}

/// `POST /connections/{id}/check`: the same as `verifyd enqueue`.
pub async fn check(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
    headers: HeaderMap,
    Form(form): Form<Confirmation>,
) -> Result<Response, PageError> {
    let id: ConnectionId = id(&path)?;
    visitor.form(&headers, &form.csrf)?;
    visitor.needs(Scope::Run)?;
    let request = CheckRequest {
        reach: visitor.binding,
        ..CheckRequest::of(id)
    };
    let (store, queue) = (pages.store.as_ref(), pages.queue.as_deref());
    let started = start_check(store, queue, &pages.providers, &request).await?;
    if let Err(error) = &started.hint {
        tracing::warn!(%error, "cannot send a hint; the sweep finds the run");
    }
    Ok(Redirect::to(&format!("/runs/{}", started.recorded.run_id)).into_response())
}
