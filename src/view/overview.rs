//! What needs a person now, and how it has gone lately.

use super::report::{ReportState, RunView};
use crate::domain::connection::ConnectionStatus;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::overview::{ConnectionCounts, ConnectionState, TrendPoint};
use crate::domain::report::NextStep;
use crate::domain::run::{Outcome, RunStatus};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// How a connection stands, in the words of its latest report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Ready,
    NeedsAttention,
    Blocked,
    /// Enabled, and never checked.
    Never,
    /// Nobody wants it checked.
    Disabled,
    /// Its row holds what it must not hold.
    Unusable,
    /// A report of another writer, with a word that this build does not know.
    Unknown,
}

impl Standing {
    /// Of a connection.
    pub fn of(state: &ConnectionState) -> Self {
        match &state.latest_report {
            _ if state.problem.is_some() => Self::Unusable,
            _ if state.connection.status == ConnectionStatus::Disabled => Self::Disabled,
            None => Self::Never,
            Some(report) => Self::of_overall(&report.overall),
        }
    }

    /// Of `summary.overall`, as it was stored.
    pub fn of_overall(overall: &str) -> Self {
        match overall {
            "ready" => Self::Ready,
            "needs_attention" => Self::NeedsAttention,
            "blocked" => Self::Blocked,
            _ => Self::Unknown,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::NeedsAttention => "Needs attention",
            Self::Blocked => "Blocked",
            Self::Never => "Never checked",
            Self::Disabled => "Disabled",
            Self::Unusable => "Cannot be used",
            Self::Unknown => "Unknown",
        }
    }

    /// As it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NeedsAttention => "needs_attention",
            Self::Blocked => "blocked",
            Self::Never => "never",
            Self::Disabled => "disabled",
            Self::Unusable => "unusable",
            Self::Unknown => "unknown",
        }
    }
}

/// One of a connection's last runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StripCell {
    pub operation_run_id: i64,
    pub standing: Standing,
    pub outcome: Option<Outcome>,
    pub completed_at: Option<DateTime<Utc>>,
}

/// A connection in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionView {
    pub id: i64,
    /// Its display name, or its number.
    pub name: String,
    pub workspace_id: i64,
    pub tenant_id: i64,
    pub provider: String,
    pub module: Option<String>,
    pub cloud: Option<String>,
    pub entra_tenant_id: Option<String>,
    /// Name of the directory, as it says itself.
    pub entra_tenant_name: Option<String>,
    pub credential_expires_at: Option<DateTime<Utc>>,
    pub credential_expiry_source: Option<ExpirySource>,
    pub client_id: Option<String>,
    pub standing: Standing,
    /// Why it cannot be used.
    pub problem: Option<String>,
    pub outcome: Option<Outcome>,
    /// The run of the latest report, and when it was completed.
    pub latest_run_id: Option<i64>,
    pub checked_at: Option<DateTime<Utc>>,
    /// A run that is queued or running.
    pub active_run_id: Option<i64>,
    /// Its last runs, oldest first.
    pub strip: Vec<StripCell>,
}

impl ConnectionView {
    /// With those points of the trend that are its own.
    pub fn of(state: &ConnectionState, trend: &[TrendPoint]) -> Self {
        let c = &state.connection;
        let latest = state.latest_report.as_ref();
        Self {
            id: c.id.0,
            name: match state.name() {
                Some(name) => name,
                None => format!("Connection {}", c.id),
            },
            workspace_id: c.workspace_id.0,
            tenant_id: c.tenant_id.0,
            provider: c.provider.clone(),
            module: c.module.clone(),
            cloud: c.cloud.clone(),
            entra_tenant_id: c.entra_tenant_id.clone(),
            entra_tenant_name: state.facts.entra_tenant_name.clone(),
            credential_expires_at: state.facts.credential_expires_at,
            credential_expiry_source: state.facts.credential_expiry_source,
            client_id: c.client_id.clone(),
            standing: Standing::of(state),
            problem: state.problem.clone(),
            outcome: latest.map(|l| l.outcome),
            latest_run_id: latest.map(|l| l.operation_run_id.0),
            checked_at: latest.map(|l| l.completed_at),
            active_run_id: state.active_run_id.map(|id| id.0),
            strip: trend
                .iter()
                .filter(|p| p.connection_id == c.id && p.status == RunStatus::Completed)
                .map(|p| StripCell {
                    operation_run_id: p.operation_run_id.0,
                    standing: p
                        .overall
                        .as_deref()
                        .map_or(Standing::Unknown, Standing::of_overall),
                    outcome: p.outcome,
                    completed_at: p.completed_at,
                })
                .collect(),
        }
    }
}

/// A connection that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionView {
    pub connection: ConnectionView,
    /// The verdict over its latest run.
    pub verdict: String,
    /// Code of what is wrong first.
    pub reason_code: Option<&'static str>,
    /// What to do about it.
    pub next_steps: Vec<NextStep>,
    /// Everything that is wrong was acknowledged.
    pub acknowledged: bool,
}

impl AttentionView {
    /// `run` is the run of the connection's latest report; none when it is gone.
    pub fn of(connection: ConnectionView, run: Option<&RunView>) -> Self {
        let (mut reason_code, mut next_steps, mut acknowledged) = (None, Vec::new(), false);
        if let Some(RunView {
            report: ReportState::Readable { report },
            ..
        }) = run
        {
            acknowledged =
                !report.problems.is_empty() && report.acknowledged == report.problems.len();
            // What nobody has accepted yet comes first.
            let first = report
                .problems
                .iter()
                .find(|p| p.acknowledgement.is_none())
                .or(report.problems.first());
            if let Some(problem) = first {
                reason_code = problem.check.reason_code.map(|r| r.code());
                next_steps.clone_from(&problem.check.next_steps);
            }
        }
        Self {
            verdict: run.map_or_else(
                || "The run of its latest report is gone.".to_owned(),
                |run| run.verdict.clone(),
            ),
            connection,
            reason_code,
            next_steps,
            acknowledged,
        }
    }
}

/// The state of all connections in one sentence.
pub fn headline(counts: &ConnectionCounts) -> String {
    let enabled = counts
        .total
        .saturating_sub(counts.disabled)
        .saturating_sub(counts.unusable);
    let one = |n: u64, verb: [&str; 2], what: &str| match n {
        0 => None,
        1 => Some(format!("1 {} {what}", verb[0])),
        n => Some(format!("{n} {} {what}", verb[1])),
    };
    let wrong: Vec<String> = [
        one(counts.blocked, ["is", "are"], "blocked"),
        one(counts.needs_attention, ["needs", "need"], "attention"),
        one(counts.unusable, ["cannot", "cannot"], "be used"),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (counts.total, enabled, wrong.is_empty()) {
        (0, ..) => "There are no connections yet.".to_owned(),
        (_, 0, true) => "All connections are disabled.".to_owned(),
        (.., true) if counts.never_checked == enabled => {
            "No connection has been checked yet.".to_owned()
        }
        (_, 1, true) => "The connection works.".to_owned(),
        (.., true) if counts.never_checked > 0 => format!(
            "All checked connections work; {} of {enabled} {} never checked.",
            counts.never_checked,
            if counts.never_checked == 1 {
                "was"
            } else {
                "were"
            }
        ),
        (_, n, true) => format!("All {n} connections work."),
        (.., false) => {
            let n = enabled + counts.unusable;
            format!(
                "Of {n} connection{}, {}.",
                if n == 1 { "" } else { "s" },
                wrong.join(" and ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_says_how_many_are_broken() {
        let counts = |total, disabled, ready, needs_attention, blocked| ConnectionCounts {
            total,
            disabled,
            unusable: 0,
            ready,
            needs_attention,
            blocked,
            failed: 0,
            never_checked: total - disabled - ready - needs_attention - blocked,
        };
        for (given, expected) in [
            (counts(0, 0, 0, 0, 0), "There are no connections yet."),
            (counts(2, 2, 0, 0, 0), "All connections are disabled."),
            (counts(2, 0, 0, 0, 0), "No connection has been checked yet."),
            (counts(1, 0, 1, 0, 0), "The connection works."),
            (counts(5, 1, 4, 0, 0), "All 4 connections work."),
            (
                counts(5, 0, 4, 0, 0),
                "All checked connections work; 1 of 5 was never checked.",
            ),
            (
                counts(9, 0, 4, 2, 3),
                "Of 9 connections, 3 are blocked and 2 need attention.",
            ),
            (
                counts(9, 1, 7, 1, 0),
                "Of 8 connections, 1 needs attention.",
            ),
            (counts(1, 0, 0, 0, 1), "Of 1 connection, 1 is blocked."),
        ] {
            assert_eq!(headline(&given), expected);
        }
        let unusable = |unusable, ready| ConnectionCounts {
            unusable,
            ..counts(ready + unusable, 0, ready, 0, 0)
        };
        for (given, expected) in [
            (unusable(1, 4), "Of 5 connections, 1 cannot be used."),
            (unusable(1, 0), "Of 1 connection, 1 cannot be used."),
        ] {
            let never_checked = 0;
            let given = ConnectionCounts {
                never_checked,
                ..given
            };
            assert_eq!(headline(&given), expected);
        }
    }
}
