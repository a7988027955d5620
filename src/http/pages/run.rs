//! `GET /runs/{id}`: the verdict, what is wrong first, what changed, how it went.

use super::Pages;
use super::error::{PageError, id, render};
use super::format::{Moment, Step, span};
use super::layout::Layout;
use super::runs::badge;
use super::session::Visitor;
use crate::domain::access::Scope;
use crate::domain::acknowledgement::may_be_acknowledged;
use crate::domain::connection::ConnectionStatus;
use crate::domain::overview::ConnectionState;
use crate::domain::report::diff::Change;
use crate::domain::report::{Check, CheckStatus};
use crate::domain::run::RunStatus;
use crate::domain::run_record::RunRecord;
use crate::domain::time_input;
use crate::domain::{AcknowledgementId, ConnectionId, RunId};
use crate::operations::acknowledge::{self, AcknowledgeError, Request};
use crate::operations::read_run::read_run;
use crate::view::diff::{CheckChange, DiffState};
use crate::view::report::{CheckView, ReportState, severity_word};
use crate::view::{AcknowledgementView, DiffView, RunDetail};
use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// What somebody said about a check.
struct Said {
    id: i64,
    active: bool,
    summary: String,
    reason: String,
}

/// One check.
struct CheckRow {
    /// Of the element: it can be linked to.
    anchor: String,
    key: String,
    title: String,
    status: &'static str,
    status_words: &'static str,
    severity: &'static str,
    blocking: bool,
    reason_code: Option<&'static str>,
    message: String,
    /// Kind and value.
    evidence: Vec<(String, String)>,
    steps: Vec<Step>,
    acknowledgeable: bool,
    said: Option<Said>,
    history: Vec<Said>,
    /// A granted permission that stands in for a required one.
    satisfied_by: Option<String>,
}

struct ChangeRow {
    class: &'static str,
    words: &'static str,
    title: String,
    before: String,
    now: String,
}

struct Event {
    words: String,
    at: Option<Moment>,
    note: Option<String>,
    class: &'static str,
}

struct ReportPart {
    problems: Vec<CheckRow>,
    running: Vec<CheckRow>,
    passed: Vec<CheckRow>,
    skipped: Vec<CheckRow>,
    overall: &'static str,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    page: Layout,
    id: i64,
    name: String,
    word: &'static str,
    class: &'static str,
    verdict: String,
    /// Queued or running.
    open: bool,
    mark: String,
    connection: Option<i64>,
    checkable: bool,
    facts: Vec<(&'static str, String)>,
    report: Option<ReportPart>,
    /// Why there is no report to show, and what is wrong with it.
    missing: Option<&'static str>,
    problems: Vec<String>,
    other: Vec<Said>,
    /// What matters, then what follows from it.
    diff: Vec<ChangeRow>,
    diff_rest: Vec<ChangeRow>,
    diff_sentence: String,
    diff_previous: Option<i64>,
    timeline: Vec<Event>,
    command: String,
    raw: String,
}

/// The run with all that belongs to it, if it is within reach.
async fn read(pages: &Pages, visitor: &Visitor, id: RunId) -> Result<RunRecord, PageError> {
    read_run(pages.store.as_ref(), id)
        .await?
        .filter(|record| visitor.admits(&record.run))
        .ok_or(PageError::NotFound)
}

/// `GET /runs/{id}`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
) -> Result<Response, PageError> {
    let id: RunId = id(&path)?;
    let record = read(&pages, &visitor, id).await?;
    let now = pages.clock.now();
    let detail = RunDetail::of(&record, now);
    let connection = match detail.run.provider_connection_id {
        Some(id) => {
            let own = crate::domain::access::Binding {
                workspace_id: record.run.workspace_id,
                tenant_id: record.run.tenant_id,
            };
            pages.store.connection_state(ConnectionId(id), &own).await?
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
    let (word, class) = badge(record.run.status, record.run.outcome);
    let (diff, diff_rest) = changes(&detail.diff);
    let (report, missing, problems) = report_part(&detail.run.report);
    let mut layout = Layout::of(&visitor, "runs", format!("{name} · run {id}"));
    if open {
        layout = layout.live(format!("/live/runs/{id}"));
    }
    let checkable = connection.as_ref().is_some_and(|state| {
        state.connection.status == ConnectionStatus::Enabled && state.active_run_id.is_none()
    });
    Ok(render(&RunPage {
        page: layout,
        id: id.0,
        name,
        word,
        class,
        verdict: detail.run.verdict.clone(),
        open,
        mark: super::live::mark(record.run.status, &record.attempts),
        connection: connection.map(|state| state.connection.id.0),
        checkable,
        facts: facts(&detail),
        report,
        missing,
        problems,
        other: detail
            .run
            .other_acknowledgements
            .iter()
            .map(Said::of)
            .collect(),
        diff_sentence: sentence(&detail.diff),
        diff_previous: detail.diff.previous_report_id,
        diff,
        diff_rest,
        timeline: timeline(&detail, now),
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
    let record = read(&pages, &visitor, id(&path)?).await?;
    let json = serde_json::to_string_pretty(&record.run).unwrap_or_default();
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

impl Said {
    fn of(view: &AcknowledgementView) -> Self {
        Self {
            id: view.id,
            active: view.standing == crate::view::acknowledgement::Standing::Active,
            summary: view.summary(),
            reason: view.reason.clone(),
        }
    }
}

impl CheckRow {
    fn of(view: &CheckView) -> Self {
        let check = &view.check;
        Self {
            anchor: format!("check-{}", check.key),
            key: check.key.clone(),
            title: check.title.clone(),
            status: check.status.as_str(),
            status_words: match check.status {
                CheckStatus::Pass => "Passed",
                CheckStatus::Fail => "Failed",
                CheckStatus::Warn => "Warning",
                CheckStatus::Skip => "Not checked",
                CheckStatus::Running => "In progress",
            },
            severity: severity_word(check.severity),
            blocking: check.blocking && check.status == CheckStatus::Fail,
            reason_code: check.reason_code.map(|r| r.code()),
            message: match view.listed() {
                Some(listed) if check.status == CheckStatus::Pass => {
                    format!("{} {listed}", check.message)
                }
                _ => check.message.clone(),
            },
            evidence: check
                .evidence
                .iter()
                .map(|e| (e.kind.to_string().replace('_', " "), e.value.clone()))
                .collect(),
            steps: Step::all(&check.next_steps),
            acknowledgeable: view.acknowledgeable,
            said: view.acknowledgement.as_ref().map(Said::of),
            history: view.history.iter().map(Said::of).collect(),
            satisfied_by: check
                .evidence
                .iter()
                .find(|e| e.kind == crate::domain::report::EvidenceKind::SatisfiedBy)
                .map(|e| e.value.clone()),
        }
    }
}

fn report_part(state: &ReportState) -> (Option<ReportPart>, Option<&'static str>, Vec<String>) {
    let rows = |checks: &[CheckView]| checks.iter().map(CheckRow::of).collect();
    match state {
        ReportState::Readable { report } => (
            Some(ReportPart {
                problems: rows(&report.problems),
                running: rows(&report.running),
                passed: rows(&report.passed),
                skipped: rows(&report.skipped),
                overall: report.overall.as_str(),
            }),
            None,
            Vec::new(),
        ),
        ReportState::Pending => (None, None, Vec::new()),
        ReportState::Missing => (
            None,
            Some(
                "The run was completed without a report. verifyd never does that: another program \
                 wrote this row. Check the connection again to know how it stands.",
            ),
            Vec::new(),
        ),
        ReportState::OtherVersion { .. } => (
            None,
            Some(
                "The report has a version that this build does not read. The raw JSON shows what \
                 it holds; a new check writes a report of this version.",
            ),
            Vec::new(),
        ),
        ReportState::Unreadable { problems } => (
            None,
            Some(
                "What is stored as the report is none. Another program wrote it, or it was changed \
                 afterwards. The raw JSON shows what is there; a new check writes a report again.",
            ),
            problems.clone(),
        ),
    }
}

fn facts(detail: &RunDetail) -> Vec<(&'static str, String)> {
    let run = &detail.run;
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| {
        facts.extend(value.map(|value| (name, value)));
    };
    fact("Workspace", run.workspace_id.map(|id| id.to_string()));
    fact("Tenant", run.tenant_id.map(|id| id.to_string()));
    fact("Provider", run.provider.clone());
    fact("Module", run.module.clone());
    if let ReportState::Readable { report } = &run.report {
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
fn changes(diff: &DiffView) -> (Vec<ChangeRow>, Vec<ChangeRow>) {
    let is_wrong = |check: Option<&Check>| check.is_some_and(may_be_acknowledged);
    let (matters, rest): (Vec<&CheckChange>, Vec<&CheckChange>) = diff
        .checks
        .iter()
        .filter(|row| row.change != Change::Unchanged)
        .partition(|row| is_wrong(row.before.as_ref()) || is_wrong(row.now.as_ref()));
    let rows = |changes: Vec<&CheckChange>| changes.into_iter().map(change).collect();
    (rows(matters), rows(rest))
}

fn change(row: &CheckChange) -> ChangeRow {
    let said = |check: Option<&Check>| -> String {
        check.map_or_else(
            || "–".to_owned(),
            |c| match c.reason_code {
                Some(reason) => format!("{} ({reason})", c.status),
                None => c.status.to_string(),
            },
        )
    };
    let (class, words) = match row.change {
        Change::New => ("new", "New"),
        Change::Gone => ("gone", "Gone"),
        _ => ("changed", "Changed"),
    };
    ChangeRow {
        class,
        words,
        title: row.title().to_owned(),
        before: said(row.before.as_ref()),
        now: said(row.now.as_ref()),
    }
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
            class: match attempt.end_reason {
                None => "running",
                Some(crate::domain::attempt::AttemptEnd::Completed) => "succeeded",
                Some(_) => "attention",
            },
        });
    }
    if times.completed_at.is_some() {
        let (word, class) = badge(detail.run.status, detail.run.outcome);
        events.push(Event {
            words: format!("Completed: {}", word.to_lowercase()),
            at: Moment::maybe(times.completed_at, now),
            note: times.worked_ms.map(|ms| format!("worked {}", span(ms))),
            class,
        });
    }
    events
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

/// The person, if one says so. The token is kept beside it.
fn person(visitor: &Visitor, by: &str) -> String {
    match by.trim() {
        "" => format!("token {}", visitor.name),
        by => by.to_owned(),
    }
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
    read(&pages, &visitor, id).await?;
    let request = Request {
        run: id,
        check_key: form.check_key,
        reason: form.reason,
        by: person(&visitor, &form.by),
        through: visitor.actor(),
        expires_at: expiry(&form.until)?,
    };
    let done = acknowledge::acknowledge(pages.store.as_ref(), &request, pages.clock.now()).await?;
    Ok(back_to(id, &done.acknowledgement.check_key))
}

#[derive(Debug, Deserialize)]
pub struct WithdrawForm {
    #[serde(default)]
    csrf: String,
}

/// `POST /runs/{id}/acknowledgements/{acknowledgement}/withdraw`
pub async fn withdraw(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Path((run, acknowledgement)): Path<(String, String)>,
    headers: HeaderMap,
    Form(form): Form<WithdrawForm>,
) -> Result<Response, PageError> {
    let run: RunId = id(&Path(run))?;
    let acknowledgement: AcknowledgementId = id(&Path(acknowledgement))?;
    visitor.form(&headers, &form.csrf)?;
    visitor.needs(Scope::Run)?;
    // Only what stands beside this run, own or inherited, can be withdrawn here.
    let record = read(&pages, &visitor, run).await?;
    let found = record
        .acknowledgements
        .iter()
        .find(|a| a.id == acknowledgement)
        .ok_or(PageError::NotFound)?;
    let by = person(&visitor, "");
    acknowledge::withdraw(pages.store.as_ref(), acknowledgement, &by, &visitor.actor()).await?;
    Ok(back_to(run, &found.check_key))
}

fn back_to(run: RunId, check_key: &str) -> Response {
    let fragment =
        percent_encoding::utf8_percent_encode(check_key, percent_encoding::NON_ALPHANUMERIC);
    Redirect::to(&format!("/runs/{run}#check-{fragment}")).into_response()
}

impl From<AcknowledgeError> for PageError {
    fn from(error: AcknowledgeError) -> Self {
        match error {
            AcknowledgeError::Store(error) => Self::Store(error),
            AcknowledgeError::NoSuchRun(_) | AcknowledgeError::NoSuchAcknowledgement(_) => {
                Self::NotFound
            }
            other => Self::Refused(format!("{other}.")),
        }
    }
}
