//! What changed against the previous report of the same connection.

use super::report::{ReportState, read};
use super::words;
use crate::domain::names::text_enum;
pub use crate::domain::report::diff::CheckChange;
use crate::domain::report::diff::{Change, diff};
use crate::domain::report::{Overall, Report};
use crate::domain::run::OperationRun;
use serde::Serialize;
use utoipa::ToSchema;

/// What changed against the previous report of the same connection, or why that cannot be said.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Diff)]
pub struct DiffView {
    pub operation_run_id: i64,
    pub previous_report_id: Option<i64>,
    #[schema(inline)]
    pub state: DiffState,
    /// The fingerprints are equal.
    pub unchanged: bool,
    pub overall_before: Option<Overall>,
    pub overall_now: Option<Overall>,
    #[schema(inline)]
    pub counts: ChangeCounts,
    /// In the order of the report, then what is gone.
    pub checks: Vec<CheckChange>,
}

text_enum! {
    /// Whether two reports could be compared.
    pub enum DiffState: "state" {
        Compared => "compared",
        /// This is the first report of the connection.
        First => "first",
        /// The run that held the previous report was deleted.
        PreviousGone => "previous_gone",
        /// The previous report cannot be read.
        PreviousUnreadable => "previous_unreadable",
        /// The run has no report that can be read.
        Unreadable => "unreadable",
        /// The run has no report, such as before it is completed.
        NoReport => "no_report",
    }
}

impl DiffState {
    /// For people: what is shown in place of a comparison.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Compared => "Compared with the previous report of the connection.",
            Self::First => "This is the first report of the connection: nothing to compare with.",
            Self::PreviousGone => "The run that held the previous report was deleted.",
            Self::PreviousUnreadable => "The previous report cannot be read.",
            Self::Unreadable => "The run has no report that can be compared.",
            Self::NoReport => "The run has no report.",
        }
    }
}

/// How many checks changed how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangeCounts {
    pub new: usize,
    pub changed: usize,
    pub gone: usize,
    pub unchanged: usize,
}

impl CheckChange {
    /// How it compares, for people.
    pub const fn change_words(&self) -> &'static str {
        words::change(self.change)
    }

    /// What the check found before, in short.
    pub fn found_before(&self) -> String {
        words::finding(self.before.as_ref(), self.now.as_ref())
    }

    /// What the check found now, in short.
    pub fn found_now(&self) -> String {
        words::finding(self.now.as_ref(), self.before.as_ref())
    }

    /// The newer of its titles.
    pub fn title(&self) -> &str {
        self.now
            .as_ref()
            .or(self.before.as_ref())
            .map_or(self.key.as_str(), |check| check.title.as_str())
    }
}

impl DiffView {
    /// Compares the run's report with the one in `previous`. A run that is not of the same tenant is
    /// no previous one, whatever the report says.
    pub fn of(run: &OperationRun, previous: Option<&OperationRun>) -> Self {
        let mut view = Self {
            operation_run_id: run.id.0,
            previous_report_id: None,
            state: DiffState::Unreadable,
            unchanged: false,
            overall_before: None,
            overall_now: None,
            counts: ChangeCounts::default(),
            checks: Vec::new(),
        };
        let now = match read(run) {
            Ok(now) => now,
            Err(state) => {
                if matches!(state, ReportState::Pending | ReportState::Missing) {
                    view.state = DiffState::NoReport;
                }
                return view;
            }
        };
        view.overall_now = Some(now.summary.overall);
        view.previous_report_id = now.previous_report_id.map(|id| id.0);
        let Some(id) = now.previous_report_id else {
            view.state = DiffState::First;
            return view;
        };
        let previous = previous.filter(|p| {
            p.id == id && (p.workspace_id, p.tenant_id) == (run.workspace_id, run.tenant_id)
        });
        let Some(previous) = previous else {
            view.state = DiffState::PreviousGone;
            return view;
        };
        let Ok(before) = read(previous) else {
            view.state = DiffState::PreviousUnreadable;
            return view;
        };
        view.compare(&before, &now);
        view
    }

    fn compare(&mut self, before: &Report, now: &Report) {
        self.state = DiffState::Compared;
        self.unchanged = before.fingerprint == now.fingerprint;
        self.overall_before = Some(before.summary.overall);
        self.checks = diff(before, now);
        for row in &self.checks {
            match row.change {
                Change::New => self.counts.new += 1,
                Change::Changed => self.counts.changed += 1,
                Change::Gone => self.counts.gone += 1,
                Change::Unchanged => self.counts.unchanged += 1,
            }
        }
    }
}
