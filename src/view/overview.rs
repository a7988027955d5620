//! What needs a person now, and how recent runs ended.

use super::connection::ConnectionView;
use super::report::RunView;
use crate::domain::overview::ConnectionCounts;
use crate::domain::report::NextStep;

/// A connection that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
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
        if let Some(report) = run.and_then(|run| run.report.readable()) {
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
