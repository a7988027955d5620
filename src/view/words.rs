//! Words for states, statuses and changes, as people read them: each stands here once.

use crate::domain::audit::AuditAction;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::names::text_enum;
use crate::domain::report::diff::{Change, stable_evidence};
use crate::domain::report::{Check, CheckStatus, Severity};
use crate::domain::run::{Outcome, RunStatus};
use chrono::{DateTime, Utc};

text_enum! {
    /// The outcome of a run, or its status while it has none.
    pub enum RunBadge: "state" {
        Queued => "queued",
        Running => "running",
        Succeeded => "succeeded",
        Failed => "failed",
        Blocked => "blocked",
        /// Completed without an outcome: another writer's run.
        Unknown => "unknown",
    }
}

impl RunBadge {
    /// Of a run's row.
    pub const fn of(status: RunStatus, outcome: Option<Outcome>) -> Self {
        match (status, outcome) {
            (RunStatus::Queued, _) => Self::Queued,
            (RunStatus::Running, _) => Self::Running,
            (RunStatus::Completed, Some(Outcome::Succeeded)) => Self::Succeeded,
            (RunStatus::Completed, Some(Outcome::Failed)) => Self::Failed,
            (RunStatus::Completed, Some(Outcome::Blocked)) => Self::Blocked,
            (RunStatus::Completed, None) => Self::Unknown,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Blocked => "Blocked",
            Self::Unknown => "Completed",
        }
    }
}

/// What an entry of the audit trail is about, for people.
pub const fn audit_action(action: AuditAction) -> &'static str {
    match action {
        AuditAction::TokenCreated => "Token created",
        AuditAction::TokenChanged => "Token changed",
        AuditAction::TokenRevoked => "Token revoked",
        AuditAction::SignedIn => "Signed in",
        AuditAction::SignInRefused => "Sign-in refused",
        AuditAction::SignedOut => "Signed out",
        AuditAction::ConnectionAdded => "Connection added",
        AuditAction::ConnectionEnabled => "Connection enabled",
        AuditAction::ConnectionDisabled => "Connection disabled",
        AuditAction::CredentialReplaced => "Credential replaced",
        AuditAction::CredentialExpirySet => "Expiry of the credential recorded",
        AuditAction::CredentialResealed => "Credential encrypted again",
        AuditAction::AcknowledgementAdded => "Check acknowledged",
        AuditAction::AcknowledgementWithdrawn => "Acknowledgement withdrawn",
        AuditAction::EndpointAdded => "Webhook endpoint added",
        AuditAction::EndpointSecretRotated => "Secret of the webhook endpoint rotated",
        AuditAction::EndpointEnabled => "Webhook endpoint enabled",
        AuditAction::EndpointDisabled => "Webhook endpoint disabled",
        AuditAction::EndpointRemoved => "Webhook endpoint removed",
        AuditAction::EndpointResealed => "Secret of the webhook endpoint encrypted again",
    }
}

/// A number of things that are named in the plural by an `s`.
pub fn counted(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

/// How a check ended, for people.
pub const fn check_status(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Pass => "Passed",
        CheckStatus::Fail => "Failed",
        CheckStatus::Warn => "Warning",
        CheckStatus::Skip => "Not checked",
        CheckStatus::Running => "In progress",
    }
}

/// How a severity is spelt for people.
pub const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "for information",
        other => other.as_str(),
    }
}

/// How a check compares with the one before, for people.
pub const fn change(change: Change) -> &'static str {
    match change {
        Change::New => "New",
        Change::Unchanged => "Unchanged",
        Change::Changed => "Changed",
        Change::Gone => "Gone",
    }
}

/// What a check found, in short: its status, and the reason where there is one. Where `other`, the same check of
/// the other report, has both alike: what else differs from it.
pub fn finding(check: Option<&Check>, other: Option<&Check>) -> String {
    let Some(check) = check else {
        return "–".to_owned();
    };
    let same =
        |other: &&Check| (other.status, other.reason_code) == (check.status, check.reason_code);
    if let Some(other) = other.filter(same) {
        return differing(check, other);
    }
    match check.reason_code {
        Some(reason) => format!("{} ({reason})", check.status),
        None => check.status.to_string(),
    }
}

/// What a check has and the other one has not, of what a fingerprint is made of.
fn differing(check: &Check, other: &Check) -> String {
    let others = stable_evidence(other);
    let evidence = stable_evidence(check)
        .into_iter()
        .filter(|e| !others.contains(e));
    let mut parts: Vec<String> = evidence
        .map(|e| format!("{} {}", e.kind, e.value))
        .collect();
    if check.severity != other.severity {
        parts.push(format!("severity {}", check.severity));
    }
    if check.blocking != other.blocking {
        parts.push(
            if check.blocking {
                "blocking"
            } else {
                "not blocking"
            }
            .to_owned(),
        );
    }
    match parts.is_empty() {
        true => "–".to_owned(),
        false => parts.join(", "),
    }
}

/// What is said of a credential's expiry in place of a date. Empty: there is a date.
pub const fn expiry(at: Option<DateTime<Utc>>, source: Option<ExpirySource>) -> &'static str {
    match (at, source) {
        (Some(_), _) => "",
        (None, Some(_)) => "never",
        (None, None) => "unknown",
    }
}

/// A time that took so many milliseconds, in one unit: `340 ms`, `1.2 s`, `12 s`, `3 min`, `2 h`, `5 days`.
pub fn span(milliseconds: i64) -> String {
    const SECOND: i64 = 1_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let ms = milliseconds.max(0);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => {
            let tenths = ms / 100;
            match tenths % 10 {
                0 => format!("{} s", tenths / 10),
                rest => format!("{}.{rest} s", tenths / 10),
            }
        }
        _ if ms < 2 * MINUTE => format!("{} s", ms / SECOND),
        _ if ms < 2 * HOUR => format!("{} min", ms / MINUTE),
        _ if ms < 2 * DAY => format!("{} h", ms / HOUR),
        _ => format!("{} days", ms / DAY),
    }
}

/// A whole number of seconds, in one unit.
pub fn span_of_seconds(seconds: u64) -> String {
    if seconds == 0 {
        return "0 s".to_owned();
    }
    span(i64::try_from(seconds).map_or(i64::MAX, |seconds| seconds.saturating_mul(1_000)))
}

/// How long ago a time was, or how far ahead it is: `just now`, `12 min ago`, `in 9 h`.
pub fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ahead = at > now;
    let seconds = (if ahead { at - now } else { now - at }).num_seconds();
    match (seconds, ahead) {
        (0..=1, _) => "just now".to_owned(),
        (_, true) => format!("in {}", span(seconds * 1_000)),
        (_, false) => format!("{} ago", span(seconds * 1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::{Evidence, EvidenceKind};

    #[test]
    fn a_finding_of_the_same_status_is_told_by_what_changed() {
        let found = |count: u32, severity, blocking| Check {
            key: "a.b".into(),
            title: "A".into(),
            status: CheckStatus::Pass,
            message: "m".into(),
            blocking,
            evidence: vec![
                Evidence::new(EvidenceKind::Source, "x"),
                Evidence::new(EvidenceKind::Count, count),
                Evidence::new(EvidenceKind::RequestId, count),
            ],
            severity,
            next_steps: Vec::new(),
            reason_code: None,
        };
        let now = found(4, Severity::Low, true);
        for (before, words, now_words) in [
            (found(3, Severity::Low, true), "count 3", "count 4"),
            (
                found(4, Severity::High, true),
                "severity high",
                "severity low",
            ),
            (found(4, Severity::Low, false), "not blocking", "blocking"),
        ] {
            assert_eq!(finding(Some(&before), Some(&now)), words);
            assert_eq!(finding(Some(&now), Some(&before)), now_words);
        }
        assert_eq!(finding(Some(&now), None), "pass");
        assert_eq!(finding(None, Some(&now)), "–");
    }

    #[test]
    fn a_time_ahead_is_told_from_one_that_has_passed() {
        let now = DateTime::UNIX_EPOCH;
        for (milliseconds, text) in [
            (-3_400_000_000, "39 days ago"),
            (-7_300_000, "2 h ago"),
            (-5_000, "5 s ago"),
            (-1_999, "just now"),
            (999, "just now"),
            (5_999, "in 5 s"),
            (32_400_000, "in 9 h"),
        ] {
            let at = now + chrono::TimeDelta::milliseconds(milliseconds);
            assert_eq!(ago(at, now), text);
        }
    }

    #[test]
    fn spans_have_one_unit() {
        for (ms, text) in [
            (-5, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_240, "1.2 s"),
            (59_000, "59 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(span(ms), text);
            if ms > 999 && ms % 1_000 == 0 {
                assert_eq!(span_of_seconds(ms.unsigned_abs() / 1_000), text);
            }
        }
        assert_eq!(span_of_seconds(0), "0 s");
    }
}
