//! `GET /runs`: all runs, newest first.

use super::error::{PageError, render};
use super::format::{Moment, parse};
use super::input::Query;
use super::layout::{Choice, Layout};
use super::session::Visitor;
use super::{Pages, ROWS};
use crate::domain::run::{Outcome, RunSummary};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::http::list::List;
use crate::ports::store::RunFilter;
use crate::view::RunItem;
use crate::view::connection::Standing;
use crate::view::words::{RunBadge, span};
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// What the list is narrowed to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// A status, or an outcome.
    state: String,
    connection: String,
    tenant: String,
    before: String,
}

/// One run of a list.
pub struct Line {
    pub item: RunItem,
    pub name: String,
    pub state: RunBadge,
    /// What the report says of the connection, where the outcome alone would mislead: a run that
    /// succeeded may have found the connection broken.
    pub standing: Option<Standing>,
    pub recorded: Option<Moment>,
    /// From recorded to completed.
    pub took: Option<String>,
}

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    page: Layout,
    runs: Vec<Line>,
    filter: Filter,
    choices: Vec<Choice>,
    filtered: bool,
    first: Option<String>,
    next: Option<String>,
}

/// Runs as lines of a list.
pub fn lines(runs: Vec<RunSummary>, now: DateTime<Utc>) -> Vec<Line> {
    runs.into_iter().map(|run| line(run, now)).collect()
}

fn line(run: RunSummary, now: DateTime<Utc>) -> Line {
    let item = RunItem::from(run);
    let standing = item
        .overall
        .map(|overall| Standing::of_overall(overall.as_str()));
    Line {
        state: RunBadge::of(item.status, item.outcome),
        standing: standing
            .filter(|s| item.outcome == Some(Outcome::Succeeded) && *s != Standing::Ready),
        name: match (&item.display_name, item.provider_connection_id) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => format!("Connection {id}"),
            (None, None) => "No connection".to_owned(),
        },
        recorded: Moment::maybe(item.recorded_at, now),
        took: item
            .recorded_at
            .zip(item.completed_at)
            .map(|(from, to)| span((to - from).num_milliseconds())),
        item,
    }
}

/// `GET /runs`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, PageError> {
    let connection: Option<ConnectionId> = parse(&filter.connection, "connection")?;
    let tenant: Option<TenantId> = parse(&filter.tenant, "tenant")?;
    let before: Option<RunId> = parse(&filter.before, "before")?;
    let choices = RunBadge::ALL.iter().filter(|s| **s != RunBadge::Unknown);
    let state = choices.clone().find(|s| s.as_str() == filter.state);
    let list = List::new("/runs", "before", ROWS)
        .with("state", state)
        .with("connection", connection)
        .with("tenant", tenant);
    let found = visitor
        .reads(&pages)
        .runs(&RunFilter {
            binding: visitor.binding,
            status: state.and_then(|s| s.as_str().parse().ok()),
            outcome: state.and_then(|s| s.as_str().parse().ok()),
            connection,
            tenant,
            before,
            limit: list.rows(),
        })
        .await?;
    let found = list.page(found, |last| last.id);
    Ok(render(&RunsPage {
        page: Layout::of(&visitor, "runs", "Runs").live("/live"),
        runs: lines(found.items, pages.clock.now()),
        choices: choices
            .map(|s| Choice {
                value: s.as_str(),
                words: s.words(),
                chosen: state == Some(s),
            })
            .collect(),
        filtered: state.is_some() || connection.is_some() || tenant.is_some(),
        first: before.map(|_| list.first()),
        next: found.next,
        filter,
    }))
}
