//! What is odd about a row, in words: the same for both kinds of database.

use super::from_row::from_row;
use crate::domain::RunId;
use crate::domain::report::redact;
use crate::ports::oddities::OddRun;

/// Most characters of a foreign value that are shown.
const SHOWN: usize = 60;

from_row! {
    /// A row of `operation_runs` whose columns contradict each other.
    #[derive(Debug)]
    pub(super) struct OddRunRow {
        id: i64,
        status: Option<String>,
        outcome: Option<String>,
        completed: bool,
        blocked_without_report: bool,
    }
}

impl From<OddRunRow> for OddRun {
    fn from(row: OddRunRow) -> Self {
        let shown = |value: &Option<String>| match value {
            None => "null".to_owned(),
            Some(text) => format!("{:?}", redact::clean(text, SHOWN)),
        };
        let (column, problem) = match row.status.as_deref() {
            Some("queued" | "running") if row.outcome.is_some() => (
                "outcome",
                format!(
                    "{} on a run that is not completed, allowed: null",
                    shown(&row.outcome)
                ),
            ),
            Some("queued" | "running") => (
                "completed_at",
                "set on a run that is not completed, allowed: null".to_owned(),
            ),
            Some("completed")
                if matches!(
                    row.outcome.as_deref(),
                    Some("succeeded" | "failed" | "blocked")
                ) && !row.completed =>
            {
                ("completed_at", "null on a completed run".to_owned())
            }
            Some("completed") if row.blocked_without_report => (
                "context",
                "a blocked run without verification_report".to_owned(),
            ),
            Some("completed") => (
                "outcome",
                format!(
                    "{} on a completed run, allowed: succeeded, failed, blocked",
                    shown(&row.outcome)
                ),
            ),
            _ => (
                "status",
                format!(
                    "{}, allowed: queued, running, completed; no worker claims it",
                    shown(&row.status)
                ),
            ),
        };
        Self {
            operation_run_id: RunId(row.id),
            column,
            problem,
        }
    }
}
