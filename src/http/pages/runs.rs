//! `GET /runs`: all runs, newest first.

use super::error::{PageError, render};
use super::format::{Moment, QueryText, span};
use super::layout::Layout;
use super::session::Visitor;
use super::{Pages, ROWS};
use crate::domain::run::{Outcome, RunStatus, RunSummary};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::store::RunFilter;
use crate::view::overview::Standing;
use crate::view::report::verdict_in_list;
use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// What the list is narrowed to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filter {
    /// A status, or an outcome.
    #[serde(default)]
    state: String,
    #[serde(default)]
    connection: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    before: String,
}

/// One run of a list.
pub struct Line {
    pub id: i64,
    pub name: String,
    pub connection: Option<i64>,
    pub tenant: Option<i64>,
    /// Outcome, or status while it has none.
    pub word: &'static str,
    pub class: &'static str,
    /// What the report says of the connection, where the outcome alone would mislead: a run that
    /// succeeded may have found the connection broken.
    pub standing: Option<Standing>,
    pub verdict: String,
    pub reason: Option<String>,
    pub recorded: Option<Moment>,
    /// From recorded to completed.
    pub took: Option<String>,
}

struct Choice {
    value: &'static str,
    words: &'static str,
    chosen: bool,
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

const CHOICES: [(&str, &str); 5] = [
    ("queued", "Queued"),
    ("running", "Running"),
    ("succeeded", "Succeeded"),
    ("failed", "Failed"),
    ("blocked", "Blocked"),
];

/// The outcome, or the status while there is none: (word, class).
pub fn badge(status: RunStatus, outcome: Option<Outcome>) -> (&'static str, &'static str) {
    match (status, outcome) {
        (RunStatus::Queued, _) => ("Queued", "queued"),
        (RunStatus::Running, _) => ("Running", "running"),
        (RunStatus::Completed, Some(Outcome::Succeeded)) => ("Succeeded", "succeeded"),
        (RunStatus::Completed, Some(Outcome::Failed)) => ("Failed", "failed"),
        (RunStatus::Completed, Some(Outcome::Blocked)) => ("Blocked", "blocked"),
        (RunStatus::Completed, None) => ("Completed", "unknown"),
    }
}

/// Runs as lines of a list.
pub fn lines(runs: Vec<RunSummary>, now: DateTime<Utc>) -> Vec<Line> {
    runs.into_iter().map(|run| line(run, now)).collect()
}

fn line(run: RunSummary, now: DateTime<Utc>) -> Line {
    let (word, class) = badge(run.status, run.outcome);
    let verdict = verdict_in_list(&run);
    let standing = run
        .overall
        .map(|overall| Standing::of_overall(overall.as_str()));
    Line {
        standing: standing
            .filter(|s| run.outcome == Some(Outcome::Succeeded) && *s != Standing::Ready),
        id: run.id.0,
        name: run
            .display_name
            .unwrap_or_else(|| match run.provider_connection_id {
                Some(id) => format!("Connection {id}"),
                None => "No connection".to_owned(),
            }),
        connection: run.provider_connection_id.map(|id| id.0),
        tenant: run.tenant_id.map(|id| id.0),
        word,
        class,
        verdict,
        reason: run.reason_code,
        recorded: Moment::maybe(run.created_at, now),
        took: run
            .created_at
            .zip(run.completed_at)
            .map(|(from, to)| span((to - from).num_milliseconds())),
    }
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, PageError> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            PageError::Refused(format!(
                "{what} is a whole number; the address has another."
            ))
        }),
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
    let state = CHOICES.iter().find(|(value, _)| *value == filter.state);
    let mut runs = pages
        .store
        .runs(&RunFilter {
            binding: visitor.binding,
            status: state.and_then(|(value, _)| value.parse().ok()),
            outcome: state.and_then(|(value, _)| value.parse().ok()),
            connection,
            tenant,
            before,
            limit: ROWS + 1,
        })
        .await?;
    let more = runs.len() > ROWS as usize;
    runs.truncate(ROWS as usize);
    let query = QueryText::default()
        .with("state", state.map(|(value, _)| value))
        .with("connection", connection)
        .with("tenant", tenant);
    let next = more
        .then(|| runs.last().map(|run| run.id))
        .flatten()
        .map(|last| format!("/runs{}", query.clone().with("before", Some(last))));
    Ok(render(&RunsPage {
        page: Layout::of(&visitor, "runs", "Runs").live("/live"),
        runs: lines(runs, pages.clock.now()),
        choices: CHOICES
            .iter()
            .map(|(value, words)| Choice {
                value,
                words,
                chosen: state.is_some_and(|(chosen, _)| chosen == value),
            })
            .collect(),
        filtered: state.is_some() || connection.is_some() || tenant.is_some(),
        first: before.map(|_| format!("/runs{query}")),
        next,
        filter,
    }))
}
