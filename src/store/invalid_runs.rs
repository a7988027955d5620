//! Describes what is invalid about a row, for both kinds of database.

use super::from_row::from_row;
use super::tolerant_decoding::Text;
use crate::domain::report::redact;
use crate::domain::{Outcome, Reason, RunId};
use crate::ports::invalid_runs::InvalidRun;

/// Longest part of another application's value that is shown, in characters.
const SHOWN: usize = 60;

from_row! {
    /// A row of `operation_runs` whose columns contradict each other, or cannot be understood.
    #[derive(Debug)]
    pub(super) struct InvalidRunRow {
        id: i64,
        status: Option<Text>,
        outcome: Option<Text>,
        completed: bool,
        blocked_without_report: bool,
        reason_code: Option<Text>,
        bad_created_at: bool,
    }
}

impl From<InvalidRunRow> for InvalidRun {
    fn from(row: InvalidRunRow) -> Self {
        let shown = |value: &Option<Text>| match value {
            None => "null".to_owned(),
            Some(text) => format!("{:?}", redact::clean(&text.0, SHOWN)),
        };
        let is_outcome = |value: &Option<Text>| {
            value
                .as_ref()
                .is_some_and(|text| text.0.parse::<Outcome>().is_ok())
        };
        let status = row.status.as_ref().map(|text| text.0.as_str());
        let (column, problem) = match status {
            _ if row.id <= 0 => ("id", "not positive; no worker claims it".to_owned()),
            Some("queued" | "running") if row.outcome.is_some() => (
                "outcome",
                format!(
                    "{} on a run that is not completed, allowed: null",
                    shown(&row.outcome)
                ),
            ),
            Some("queued" | "running") if row.completed => (
                "completed_at",
                "set on a run that is not completed, allowed: null".to_owned(),
            ),
            Some("completed") if is_outcome(&row.outcome) && !row.completed => {
                ("completed_at", "null on a completed run".to_owned())
            }
            Some("completed") if row.blocked_without_report => (
                "context",
                "a blocked run without verification_report".to_owned(),
            ),
            Some("completed") if !is_outcome(&row.outcome) => (
                "outcome",
                format!(
                    "{} on a completed run, allowed: succeeded, failed, blocked",
                    shown(&row.outcome)
                ),
            ),
            Some("queued" | "running" | "completed") if row.bad_created_at => {
                ("created_at", "no time of the years 1 to 9999".to_owned())
            }
            Some("completed") => {
                let reason = row
                    .reason_code
                    .and_then(|code| code.0.parse::<Reason>().ok());
                (
                    "context",
                    reason.map_or_else(
                        || "it could not be understood".to_owned(),
                        |reason| format!("{reason}: {} See the run's report.", reason.what()),
                    ),
                )
            }
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
