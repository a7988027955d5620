//! A run and its report, told in the order in which a person needs it: the verdict, what is wrong
//! first with what to do, then what passed.

use super::acknowledgement::AcknowledgementView;
use super::waiting::waiting;
use super::words;
use crate::domain::acknowledgement::{Acknowledgement, may_be_acknowledged};
use crate::domain::json;
use crate::domain::overview::NAME_CHARS;
use crate::domain::reason::Reason;
use crate::domain::report::{
    Check, CheckStatus, EvidenceKind, Overall, Report, SCHEMA_VERSION, redact, schema,
};
use crate::domain::run::{OperationRun, Outcome, ReportPresence, RunStatus, RunSummary};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::cmp::Reverse;
use utoipa::ToSchema;

/// A run, ready to be shown.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RunView {
    pub operation_run_id: i64,
    pub workspace_id: Option<i64>,
    pub tenant_id: Option<i64>,
    /// As the producer named it; whether it is the tenant's own is the report's to say.
    pub provider_connection_id: Option<i64>,
    pub provider: Option<String>,
    pub module: Option<String>,
    pub display_name: Option<String>,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    pub recorded_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether it is not completed, and other runs have its id, so that no worker claims it.
    pub shares_id: bool,
    /// The verdict in one sentence, or two.
    pub verdict: String,
    pub report: ReportState,
    /// Those that belong to no check that is shown: of a report that cannot be read, or of a check
    /// that is not in it.
    pub other_acknowledgements: Vec<AcknowledgementView>,
}

/// Whether there is a report, and whether it can be read.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReportState {
    /// The run is not completed yet.
    Pending,
    /// A completed run without a report: somebody else completed it.
    Missing,
    /// A report, but of a version that this build does not read.
    OtherVersion {
        schema_version: String,
    },
    /// There is a document, but it is no report.
    Unreadable {
        /// Paths and rules, never values.
        problems: Vec<String>,
    },
    Readable {
        report: Box<ReportView>,
    },
}

/// A report in the order in which a person needs it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReportView {
    pub overall: Overall,
    pub generated_at: String,
    pub fingerprint: String,
    pub previous_report_id: Option<i64>,
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
    pub cloud: Option<String>,
    pub provider_connection_id: Option<i64>,
    /// How many of the problems are acknowledged. Says nothing about status or overall.
    pub acknowledged: usize,
    /// Failures before warnings, blocking ones first, the most severe first.
    pub problems: Vec<CheckView>,
    pub running: Vec<CheckView>,
    pub passed: Vec<CheckView>,
    pub skipped: Vec<CheckView>,
}

/// A check as it stands in the report, and what people said about it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CheckView {
    #[serde(flatten)]
    pub check: Check,
    /// It can be acknowledged now: it is wrong, and nobody has accepted it.
    pub acknowledgeable: bool,
    /// The acknowledgement that stands.
    pub acknowledgement: Option<AcknowledgementView>,
    /// The others: withdrawn, expired, or repeated. Oldest first.
    pub history: Vec<AcknowledgementView>,
}

impl RunView {
    /// Makes a view of any row, however it came about, with its acknowledgements as they stand now.
    pub fn of(
        run: &OperationRun,
        acknowledgements: &[Acknowledgement],
        now: DateTime<Utc>,
    ) -> Self {
        let mut said: Vec<AcknowledgementView> = acknowledgements
            .iter()
            .map(|a| AcknowledgementView::of(a, run.id, now))
            .collect();
        let report = match read(run) {
            Err(state) => state,
            Ok(report) => {
                let completed = run.status == RunStatus::Completed;
                ReportState::Readable {
                    report: Box::new(ReportView::with(report, completed, &mut said)),
                }
            }
        };
        let request = run.request();
        Self {
            operation_run_id: run.id.0,
            workspace_id: run.workspace_id.map(|id| id.0),
            tenant_id: run.tenant_id.map(|id| id.0),
            provider_connection_id: request.provider_connection_id.map(|id| id.0),
            provider: request.provider,
            module: request.module,
            display_name: request
                .target_scope
                .and_then(|scope| scope.entra_tenant_name)
                .map(|name| redact::clean(&name, NAME_CHARS)),
            status: run.status,
            outcome: run.outcome,
            recorded_at: run.created_at,
            completed_at: run.completed_at,
            shares_id: run.shares_id,
            verdict: verdict(run, &report),
            report,
            other_acknowledgements: said,
        }
    }
}

/// The run's report, or why there is none to show.
pub(super) fn read(run: &OperationRun) -> Result<Report, ReportState> {
    let Some(document) = run.report() else {
        return Err(match run.status {
            _ if run.repeats_report => ReportState::Unreadable {
                problems: vec!["/: occurs twice".to_owned()],
            },
            RunStatus::Completed => ReportState::Missing,
            _ => ReportState::Pending,
        });
    };
    let version: Option<String> = json::member(document, "schema_version")
        .and_then(|version| serde_json::from_str(version).ok());
    if let Some(version) = version
        && major_and_minor(&version) != major_and_minor(SCHEMA_VERSION)
        && major_and_minor(&version).is_some()
    {
        return Err(ReportState::OtherVersion {
            schema_version: redact::clean(&version, 20),
        });
    }
    schema::read(document).map_err(|problems| ReportState::Unreadable { problems })
}

/// `1.5` of `1.5.0`; None where it is no version.
fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.splitn(3, '.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

impl ReportState {
    /// The report, where it can be read.
    pub fn readable(&self) -> Option<&ReportView> {
        match self {
            Self::Readable { report } => Some(report),
            _ => None,
        }
    }

    /// What is wrong with a document that is no report.
    pub fn problems(&self) -> &[String] {
        match self {
            Self::Unreadable { problems } => problems,
            _ => &[],
        }
    }
}

impl CheckView {
    /// How it ended, for people.
    pub const fn status_words(&self) -> &'static str {
        words::check_status(self.check.status)
    }

    /// How severe it is, for people.
    pub const fn severity_words(&self) -> &'static str {
        words::severity(self.check.severity)
    }

    /// It failed, and makes the whole report `blocked`.
    pub fn blocks(&self) -> bool {
        self.check.blocking && self.check.status == CheckStatus::Fail
    }

    /// A granted permission that stands in for the required one.
    pub fn satisfied_by(&self) -> Option<&str> {
        let mut evidence = self.check.evidence.iter();
        let found = evidence.find(|e| e.kind == EvidenceKind::SatisfiedBy)?;
        Some(&found.value)
    }

    /// Its message, and what it lists where it passed.
    pub fn text(&self) -> String {
        match self.listed() {
            Some(listed) if self.check.status == CheckStatus::Pass => {
                format!("{} {listed}", self.check.message)
            }
            _ => self.check.message.clone(),
        }
    }

    /// What a passed check lists for information, in words: its message does not repeat the names.
    pub fn listed(&self) -> Option<String> {
        let of = |kind: EvidenceKind| {
            let of_kind = self.check.evidence.iter().filter(|e| e.kind == kind);
            let values: Vec<&str> = of_kind.map(|e| e.value.as_str()).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        let parts = [
            of(EvidenceKind::Unneeded),
            of(EvidenceKind::LeastPrivilege).map(|names| format!("less would do for {names}")),
            of(EvidenceKind::DirectoryControl)
                .map(|names| format!("control of the directory: {names}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Takes what was said about this check out of `said`.
    fn of(check: Check, completed: bool, said: &mut Vec<AcknowledgementView>) -> Self {
        let mut history: Vec<AcknowledgementView> =
            said.extract_if(.., |a| a.check_key == check.key).collect();
        let acknowledgement = history
            .iter()
            .rposition(|a| a.stands_for(&check))
            .map(|i| history.remove(i));
        Self {
            acknowledgeable: completed && acknowledgement.is_none() && may_be_acknowledged(&check),
            acknowledgement,
            history,
            check,
        }
    }
}

impl ReportView {
    /// A report that is not part of a run of this database.
    pub fn of(report: Report) -> Self {
        Self::with(report, false, &mut Vec::new())
    }

    /// Sorts the checks by what a person needs first. An acknowledgement changes nothing of that:
    /// what is accepted is still broken.
    fn with(report: Report, completed: bool, said: &mut Vec<AcknowledgementView>) -> Self {
        let checks: Vec<CheckView> = report
            .checks
            .into_iter()
            .map(|check| CheckView::of(check, completed, said))
            .collect();
        let with = |statuses: &[CheckStatus]| -> Vec<CheckView> {
            checks
                .iter()
                .filter(|c| statuses.contains(&c.check.status))
                .cloned()
                .collect()
        };
        let mut problems = with(&[CheckStatus::Fail, CheckStatus::Warn]);
        problems.sort_by_key(|CheckView { check: c, .. }| {
            (
                c.status,
                Reverse(c.blocking && c.status == CheckStatus::Fail),
                Reverse(c.severity),
            )
        });
        Self {
            overall: report.summary.overall,
            acknowledged: problems
                .iter()
                .filter(|c| c.acknowledgement.is_some())
                .count(),
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
    pub fn main_problem(&self) -> Option<&Check> {
        self.problems.first().map(|c| &c.check)
    }
}

/// What is said of a run that is not completed, where other runs have its id.
const SHARES_ID: &str = "No worker claims or completes it, because other runs have its id: delete all but one, as `verifyd doctor` says.";

/// What is said of a running run of which it is not known whether a worker works on it.
pub(super) const RUNNING: &str = "Running.";

fn verdict(run: &OperationRun, report: &ReportState) -> String {
    match (run.status, report) {
        _ if run.shares_id => SHARES_ID.to_owned(),
        // `RunDetail` knows when its next attempt may begin.
        (RunStatus::Queued, _) => waiting(None),
        // `RunDetail` knows whether an attempt works on it.
        (RunStatus::Running, _) => RUNNING.to_owned(),
        (RunStatus::Completed, ReportState::Readable { report }) => {
            let what = report.main_problem().map(what_is_wrong).unwrap_or_default();
            sentence(
                run.outcome,
                report.overall,
                report.problems.len(),
                &what,
                report.acknowledged,
            )
        }
        (RunStatus::Completed, ReportState::OtherVersion { schema_version }) => format!(
            "Completed{}; its report is of version {schema_version}, which this verifyd \
             ({SCHEMA_VERSION}) does not read.",
            outcome_word(run.outcome)
        ),
        (RunStatus::Completed, ReportState::Unreadable { .. }) => {
            format!(
                "Completed{}, but its report cannot be read.",
                outcome_word(run.outcome)
            )
        }
        (RunStatus::Completed, _) => {
            format!("Completed{} without a report.", outcome_word(run.outcome))
        }
    }
}

/// The verdict over a run of which only a summary was read. Names no permission, and does not know what
/// people have accepted.
pub(super) fn verdict_in_list(run: &RunSummary) -> String {
    match (run.status, run.report, run.overall) {
        _ if run.shares_id => SHARES_ID.to_owned(),
        (RunStatus::Queued, ..) => waiting(run.next_attempt_at),
        (RunStatus::Running, ..) => RUNNING.to_owned(),
        (RunStatus::Completed, ReportPresence::Readable, Some(overall)) => {
            let reason = run
                .reason_code
                .as_deref()
                .and_then(|code| code.parse::<Reason>().ok());
            let count = usize::try_from(run.problems).unwrap_or(usize::MAX);
            sentence(
                run.outcome,
                overall,
                count,
                reason.map_or("", Reason::what),
                0,
            )
        }
        (RunStatus::Completed, ReportPresence::OtherVersion, _) => format!(
            "Completed{}; this verifyd does not read the version of its report.",
            outcome_word(run.outcome)
        ),
        (RunStatus::Completed, ReportPresence::Unreadable | ReportPresence::Readable, _) => {
            format!(
                "Completed{}, but its report cannot be read in a list.",
                outcome_word(run.outcome)
            )
        }
        (RunStatus::Completed, ..) => {
            format!("Completed{} without a report.", outcome_word(run.outcome))
        }
    }
}

/// What the row says, where the report says nothing.
fn outcome_word(outcome: Option<Outcome>) -> String {
    outcome
        .map(|outcome| format!(" as {outcome}"))
        .unwrap_or_default()
}

/// The verdict over a readable report.
fn sentence(
    outcome: Option<Outcome>,
    overall: Overall,
    count: usize,
    what: &str,
    accepted: usize,
) -> String {
    let more = match count.saturating_sub(1) {
        0 => String::new(),
        1 => " One more thing needs attention.".to_owned(),
        n => format!(" {n} more things need attention."),
    };
    let more = more + &acknowledged(count, accepted);
    match outcome {
        // The next three are no run of verifyd's: whoever wrote it left something out.
        None => format!(
            "Completed without an outcome; its report says {}.",
            overall.as_str().replace('_', " ")
        ),
        Some(_) if overall == Overall::Running => {
            format!(
                "Completed{}, but its report is not finished.",
                outcome_word(outcome)
            )
        }
        Some(Outcome::Blocked | Outcome::Failed) if count == 0 => format!(
            "Completed{}, but its report names no problem.",
            outcome_word(outcome)
        ),
        Some(Outcome::Blocked) => format!("Not checked: {}{more}", lower_first(what)),
        // Nothing that blocks: a call of the module failed, and others do without it.
        Some(Outcome::Failed) if overall == Overall::NeedsAttention => format!(
            "The connection answers, but not every call of the module works: {}{more}",
            lower_first(what)
        ),
        Some(Outcome::Failed) => {
            format!("The connection does not work: {}{more}", lower_first(what))
        }
        _ if count == 0 => {
            "The connection works and has every permission that it needs.".to_owned()
        }
        _ if overall == Overall::Blocked => format!(
            "The connection answers, but what matters does not work: {}{more}",
            lower_first(what)
        ),
        _ => format!(
            "The connection works, but needs attention: {}{more}",
            lower_first(what)
        ),
    }
}

/// Counts apart what people have accepted; what is wrong stays wrong.
fn acknowledged(problems: usize, acknowledged: usize) -> String {
    match (problems, acknowledged) {
        (_, 0) => String::new(),
        (1, _) => " It is acknowledged.".to_owned(),
        (n, m) if n == m => format!(" All {n} are acknowledged."),
        (n, 1) => format!(" One of the {n} is acknowledged."),
        (n, m) => format!(" {m} of the {n} are acknowledged."),
    }
}

/// One sentence; it names the permission where one is missing.
fn what_is_wrong(check: &Check) -> String {
    let permission = check
        .evidence
        .iter()
        .find(|e| e.kind == EvidenceKind::Permission);
    match (check.reason_code, permission) {
        (Some(reason), Some(permission)) if reason.is_missing_permission() => {
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
