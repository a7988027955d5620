//! `GET /runs/{id}`: the verdict, what is wrong first, what changed, how it went.

use super::Pages;
use super::error::{PageError, id, render};
use super::format::{Link as _, Moment};
use super::input::{Form, Path};
use super::layout::Layout;
use super::session::{Confirmation, Visitor};
use crate::domain::access::{Binding, Scope};
use crate::domain::acknowledgement::may_be_acknowledged;
use crate::domain::attempt::AttemptEnd;
use crate::domain::connection::ConnectionStatus;
use crate::domain::overview::ConnectionState;
use crate::domain::report::Check;
use crate::domain::report::diff::Change;
use crate::domain::run::RunStatus;
use crate::domain::time_input;
use crate::domain::{AcknowledgementId, ConnectionId, RunId};
use crate::operations::acknowledge::{self, Request};
use crate::operations::{find_run, read_run};
use crate::view::diff::{CheckChange, DiffState};
use crate::view::report::ReportState;
use crate::view::timeline::AttemptView;
use crate::view::words::{RunBadge, span};
use crate::view::{DiffView, RunDetail, RunView};
use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

struct Event {
    words: String,
    at: Option<Moment>,
    note: Option<String>,
    class: &'static str,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    page: Layout,
    id: i64,
    name: String,
    run: RunView,
    state: RunBadge,
    /// Queued or running.
    open: bool,
    mark: String,
    connection: Option<i64>,
    checkable: bool,
    facts: Vec<(&'static str, String)>,
    /// Why there is no report to show.
    missing: Option<&'static str>,
    /// What matters, then what follows from it.
    diff: Vec<CheckChange>,
    diff_rest: Vec<CheckChange>,
    diff_sentence: String,
    diff_previous: Option<i64>,
    timeline: Vec<Event>,
    command: String,
    raw: String,
}

/// `GET /runs/{id}`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
) -> Result<Response, PageError> {
    let id: RunId = id(&path)?;
    let store = visitor.reads(&pages);
    let record = read_run(store, &visitor.binding, id).await?;
    let now = pages.clock.now();
    let mut detail = RunDetail::of(&record, now);
    let connection = match detail.run.provider_connection_id {
        Some(id) => {
            let own = Binding {
                workspace_id: record.run.workspace_id,
                tenant_id: record.run.tenant_id,
            };
            store.connection_state(ConnectionId(id), &own).await?
        }
        None => None,
    };
    let open = record.run.status != RunStatus::Completed;
    let name = connection
        .as_ref()
        .and_then(ConnectionState::name)
        .or_else(|| detail.run.display_name.clone())
        .filter(|name| !name.trim().is_empty())
        .unwrap_or_else(|| format!("Run {id}"));
    let state = RunBadge::of(record.run.status, record.run.outcome);
    let mut layout = Layout::of(&visitor, "runs", format!("{name} · run {id}"));
    if open {
        layout = layout.live(format!("/live/runs/{id}"));
    }
    let checkable = connection.as_ref().is_some_and(|state| {
        state.connection.status == ConnectionStatus::Enabled && state.active_run_id.is_none()
    });
    let (diff, diff_rest) = changes(std::mem::take(&mut detail.diff.checks));
    Ok(render(&RunPage {
        page: layout,
        id: id.0,
        name,
        state,
        open,
        mark: super::live::mark(record.run.status, &record.attempts),
        connection: connection.map(|state| state.connection.id.0),
        checkable,
        facts: facts(&detail.run),
        missing: missing(&detail.run.report),
        diff_sentence: sentence(&detail.diff),
        diff_previous: detail.diff.previous_report_id,
        timeline: timeline(&detail, now),
        run: detail.run,
        diff,
        diff_rest,
        command: format!("verifyd runs show {id}"),
        raw: format!("/runs/{id}/run.json"),
    }))
}

/// `GET /runs/{id}/run.json`: the row, as it is stored.
pub async fn raw(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
) -> Result<Response, PageError> {
    let run = find_run(visitor.reads(&pages), &visitor.binding, id(&path)?).await?;
    let json = serde_json::to_string_pretty(&run).unwrap_or_default();
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// Why there is no report to show, and what to do.
fn missing(state: &ReportState) -> Option<&'static str> {
    match state {
        ReportState::Readable { .. } | ReportState::Pending => None,
        ReportState::Missing => Some(
            "The run was completed without a report. verifyd never does that: another program \
             wrote this row. Check the connection again to know how it stands.",
        ),
        ReportState::OtherVersion { .. } => Some(
            "The report has a version that this build does not read. The raw JSON shows what \
             it holds; a new check writes a report of this version.",
        ),
        ReportState::Unreadable { .. } => Some(
            "What is stored as the report is none. Another program wrote it, or it was changed \
             afterwards. The raw JSON shows what is there; a new check writes a report again.",
        ),
    }
}

fn facts(run: &RunView) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| {
        facts.extend(value.map(|value| (name, value)));
    };
    fact("Workspace", run.workspace_id.map(|id| id.to_string()));
    fact("Tenant", run.tenant_id.map(|id| id.to_string()));
    fact("Provider", run.provider.clone());
    fact("Module", run.module.clone());
    if let Some(report) = run.report.readable() {
        fact("Entra tenant", report.entra_tenant_id.clone());
        fact("Client", report.client_id.clone());
        fact("Cloud", report.cloud.clone());
        fact("Fingerprint", Some(report.fingerprint[..12].to_owned()));
    }
    facts
}

fn sentence(diff: &DiffView) -> String {
    if diff.state != DiffState::Compared {
        return diff.state.sentence().to_owned();
    }
    if diff.unchanged {
        return "Nothing changed since the previous report.".to_owned();
    }
    let counts = diff.counts;
    let parts: Vec<String> = [
        (counts.changed, "changed"),
        (counts.new, "new"),
        (counts.gone, "gone"),
        (counts.unchanged, "unchanged"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, word)| format!("{n} {word}"))
    .collect();
    format!("Checks: {}.", parts.join(", "))
}

/// Checks that got wrong or right, and those that only were no longer, or are again, reached.
fn changes(checks: Vec<CheckChange>) -> (Vec<CheckChange>, Vec<CheckChange>) {
    let is_wrong = |check: &Option<Check>| check.as_ref().is_some_and(may_be_acknowledged);
    checks
        .into_iter()
        .filter(|row| row.change != Change::Unchanged)
        .partition(|row| is_wrong(&row.before) || is_wrong(&row.now))
}

fn timeline(detail: &RunDetail, now: DateTime<Utc>) -> Vec<Event> {
    let times = &detail.timeline;
    let mut events = vec![Event {
        words: "Queued".to_owned(),
        at: Moment::maybe(times.recorded_at, now),
        note: times.waited_ms.map(|ms| match times.claimed_at {
            Some(_) => format!("waited {}", span(ms)),
            None => format!("waiting for {}", span(ms)),
        }),
        class: "queued",
    }];
    for attempt in &times.attempts {
        let counted = if attempt.counted || attempt.ended_at.is_none() {
            ""
        } else {
            "; does not count"
        };
        events.push(Event {
            words: format!("Attempt {}", attempt.attempt),
            at: Some(Moment::of(attempt.claimed_at, now)),
            note: Some(format!(
                "{} after {}{counted} · {}",
                attempt.end,
                span(attempt.took_ms),
                attempt.worker_id
            )),
            class: class_of(attempt),
        });
    }
    if times.completed_at.is_some() {
        let state = RunBadge::of(detail.run.status, detail.run.outcome);
        events.push(Event {
            words: format!("Completed: {}", state.words().to_lowercase()),
            at: Moment::maybe(times.completed_at, now),
            note: times.worked_ms.map(|ms| format!("worked {}", span(ms))),
            class: state.as_str(),
        });
    }
    events
}

fn class_of(attempt: &AttemptView) -> &'static str {
    match (attempt.end_reason, &attempt.database_refusal) {
        (Some(AttemptEnd::Completed), _) => "succeeded",
        // After a refusal, no worker works on it any more.
        (None, None) => "running",
        _ => "attention",
    }
}

#[derive(Debug, Deserialize)]
pub struct AcknowledgeForm {
    #[serde(default)]
    csrf: String,
    check_key: String,
    reason: String,
    #[serde(default)]
    by: String,
    /// A day, as a date field sends it; empty: for as long as the finding stays the same.
    #[serde(default)]
    until: String,
}

/// When it expires, if it does.
fn expiry(until: &str) -> Result<Option<DateTime<Utc>>, PageError> {
    if until.trim().is_empty() {
        return Ok(None);
    }
    let words = |error| format!("\u{201c}until\u{201d}: {error}.");
    let at = time_input::until(until).map_err(|error| PageError::Refused(words(error)))?;
    Ok(Some(at))
}

/// `POST /runs/{id}/acknowledgements`
pub async fn acknowledge(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
    headers: HeaderMap,
    Form(form): Form<AcknowledgeForm>,
) -> Result<Response, PageError> {
    let id: RunId = id(&path)?;
    visitor.form(&headers, &form.csrf)?;
    visitor.needs(Scope::Run)?;
    let request = Request {
        run: id,
        reach: visitor.binding,
        check_key: form.check_key,
        reason: form.reason,
        by: (!form.by.trim().is_empty()).then_some(form.by),
        through: visitor.origin(),
        expires_at: expiry(&form.until)?,
    };
    let done = acknowledge::acknowledge(pages.store.as_ref(), &request, pages.clock.now()).await?;
    Ok(back_to(id, &done.acknowledgement.check_key))
}

/// `POST /runs/{id}/acknowledgements/{acknowledgement}/withdraw`
pub async fn withdraw(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Path((run, acknowledgement)): Path<(String, String)>,
    headers: HeaderMap,
    Form(form): Form<Confirmation>,
) -> Result<Response, PageError> {
    let run: RunId = id(&Path(run))?;
    let acknowledgement: AcknowledgementId = id(&Path(acknowledgement))?;
    visitor.form(&headers, &form.csrf)?;
    visitor.needs(Scope::Run)?;
    let (store, reach) = (pages.store.as_ref(), &visitor.binding);
    let through = visitor.origin();
    let withdrawn = acknowledge::withdraw(store, reach, acknowledgement, None, &through).await?;
    Ok(back_to(run, &withdrawn.check_key))
}

fn back_to(run: RunId, check_key: &str) -> Response {
    let fragment =
        percent_encoding::utf8_percent_encode(check_key, percent_encoding::NON_ALPHANUMERIC);
    Redirect::to(&format!("/runs/{run}#check-{fragment}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_whose_run_the_database_refuses_is_not_running() {
        for (end_reason, is_refused, class) in [
            (None, false, "running"),
            (None, true, "attention"),
            (Some(AttemptEnd::Error), true, "attention"),
            (Some(AttemptEnd::Completed), true, "succeeded"),
        ] {
            let attempt = AttemptView {
                attempt: 1,
                worker_id: "w1".into(),
                counted: true,
                claimed_at: DateTime::UNIX_EPOCH,
                ended_at: end_reason.map(|_| DateTime::UNIX_EPOCH),
                end_reason,
                database_refusal: is_refused.then(|| "SQLSTATE P0001".into()),
                took_ms: 1,
                end: String::new(),
            };
            assert_eq!(class_of(&attempt), class, "{end_reason:?} {is_refused}");
        }
    }
}
