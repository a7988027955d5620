//! A run and its report, told in the order in which a person needs it: the verdict, what is wrong
//! first with what to do, then what passed.

use crate::domain::reason::Reason;
use crate::domain::report::{Check, CheckStatus, EvidenceKind, Overall, Report, Severity};
use crate::domain::run::{OperationRun, Outcome, RunStatus};
use serde::Serialize;
use std::cmp::Reverse;

/// A run, ready to be shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunView {
    pub operation_run_id: i64,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    /// The verdict in one sentence.
    pub verdict: String,
    pub display_name: Option<String>,
    pub report: ReportState,
}

/// Whether there is a report, and whether it can be read.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReportState {
    /// The run is not completed yet.
    Pending,
    /// A completed run without a report: somebody else completed it.
    Missing,
    /// There is a document, but it is no report of this version.
    Unreadable {
        problems: Vec<String>,
    },
    Readable {
        report: Box<ReportView>,
    },
}

/// A report, ready to be shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportView {
    pub overall: Overall,
    pub generated_at: String,
    pub fingerprint: String,
    pub previous_report_id: Option<i64>,
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
    pub cloud: Option<String>,
    pub provider_connection_id: Option<i64>,
    /// Failures before warnings, blocking ones first, the most severe first.
    pub problems: Vec<CheckView>,
    pub running: Vec<CheckView>,
    pub passed: Vec<CheckView>,
    pub skipped: Vec<CheckView>,
}

/// A check, as it stands in the report.
pub type CheckView = Check;

impl RunView {
    /// Makes a view of any row, however it came about.
    pub fn of(run: &OperationRun) -> Self {
        let report = match run.report() {
            None if run.status == RunStatus::Completed => ReportState::Missing,
            None => ReportState::Pending,
            Some(document) => match crate::domain::report::schema::validate(document) {
                Err(problems) => ReportState::Unreadable { problems },
                Ok(()) => match serde_json::from_value::<Report>(document.clone()) {
                    Ok(report) => ReportState::Readable {
                        report: Box::new(ReportView::of(report)),
                    },
                    Err(error) => ReportState::Unreadable {
                        problems: vec![error.to_string()],
                    },
                },
            },
        };
        Self {
            operation_run_id: run.id.0,
            status: run.status,
            outcome: run.outcome,
            verdict: verdict(run, &report),
            display_name: run
                .request()
                .target_scope
                .and_then(|scope| scope.entra_tenant_name),
            report,
        }
    }
}

impl ReportView {
    /// Sorts the checks by what a person needs first.
    pub fn of(report: Report) -> Self {
        let with = |statuses: &[CheckStatus]| -> Vec<Check> {
            report
                .checks
                .iter()
                .filter(|c| statuses.contains(&c.status))
                .cloned()
                .collect()
        };
        let mut problems = with(&[CheckStatus::Fail, CheckStatus::Warn]);
        problems.sort_by_key(|c| {
            (
                c.status,
                Reverse(c.blocking && c.status == CheckStatus::Fail),
                Reverse(c.severity),
            )
        });
        Self {
            overall: report.summary.overall,
            problems,
            running: with(&[CheckStatus::Running]),
            passed: with(&[CheckStatus::Pass]),
            skipped: with(&[CheckStatus::Skip]),
            generated_at: report.generated_at,
            fingerprint: report.fingerprint,
            previous_report_id: report.previous_report_id.map(|id| id.0),
            entra_tenant_id: report.identity.entra_tenant_id,
            client_id: report.identity.client_id,
            cloud: report.identity.cloud,
            provider_connection_id: report.identity.provider_connection_id.map(|id| id.0),
        }
    }

    /// The most important problem.
    pub fn main_problem(&self) -> Option<&CheckView> {
        self.problems.first()
    }
}

fn verdict(run: &OperationRun, report: &ReportState) -> String {
    match (run.status, report) {
        (RunStatus::Queued, _) => "Waiting for a worker.".to_owned(),
        (RunStatus::Running, _) => "Being checked right now.".to_owned(),
        (RunStatus::Completed, ReportState::Readable { report }) => sentence(run.outcome, report),
        (RunStatus::Completed, ReportState::Unreadable { .. }) => {
            "Completed, but its report cannot be read.".to_owned()
        }
        (RunStatus::Completed, _) => "Completed without a report.".to_owned(),
    }
}

/// The verdict over a readable report.
fn sentence(outcome: Option<Outcome>, report: &ReportView) -> String {
    let fails = report
        .problems
        .iter()
        .filter(|c| c.status == CheckStatus::Fail)
        .count();
    let warnings = report.problems.len() - fails;
    let what = report.main_problem().map(what_is_wrong).unwrap_or_default();
    let what = what.as_str();
    let more = match (fails + warnings).saturating_sub(1) {
        0 => String::new(),
        1 => " One more thing needs attention.".to_owned(),
        n => format!(" {n} more things need attention."),
    };
    match outcome {
        Some(Outcome::Blocked) => format!("Not checked: {}{more}", lower_first(what)),
        Some(Outcome::Failed) => {
            format!("The connection does not work: {}{more}", lower_first(what))
        }
        _ if report.problems.is_empty() => {
            "The connection works and has every permission that it needs.".to_owned()
        }
        _ if report.overall == Overall::Blocked => format!(
            "The connection answers, but what matters does not work: {}{more}",
            lower_first(what)
        ),
        _ => format!(
            "The connection works, but needs attention: {}{more}",
            lower_first(what)
        ),
    }
}

/// One sentence; it names the permission where one is missing.
fn what_is_wrong(check: &CheckView) -> String {
    let permission = check
        .evidence
        .iter()
        .find(|e| e.kind == EvidenceKind::Permission);
    match (check.reason_code, permission) {
        (Some(Reason::PermissionMissing), Some(permission)) => {
            format!("The permission {} is not granted.", permission.value)
        }
        (Some(reason), _) => reason.what().to_owned(),
        (None, _) => String::new(),
    }
}

fn lower_first(sentence: &str) -> String {
    // Names keep their capital; only articles are lowered.
    for article in ["The ", "A ", "An ", "No ", "This "] {
        if let Some(rest) = sentence.strip_prefix(article) {
            return format!("{}{rest}", article.to_lowercase());
        }
    }
    sentence.to_owned()
}

/// How a severity is spelt for people.
pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "for information",
        other => other.as_str(),
    }
}
