//! Builds a report from checks: valid, free of secrets and with its fingerprint.

use super::redact;
use super::schema;
use super::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, NextStep, Report, SCHEMA_VERSION,
    Severity, limits, summarise,
};
use crate::domain::completion::{BlockedBy, FailureEntry};
use crate::domain::reason::Reason;
use crate::domain::run::RUN_TYPE;
use crate::domain::{ConnectionId, Outcome, RunId};
use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::SecretString;
use serde_json::value::{RawValue, to_raw_value};

/// The content of a report.
#[derive(Clone, Debug)]
pub struct ReportDraft {
    pub identity: Identity,
    pub generated_at: DateTime<Utc>,
    pub previous_report_id: Option<RunId>,
    pub checks: Vec<Check>,
}

/// A report that has passed its schema and the scan for secrets.
#[derive(Clone, Debug)]
pub struct FinishedReport {
    pub report: Report,
    /// The report as JSON text.
    pub json: Box<RawValue>,
    /// Why the draft was replaced by the fallback report, if it was: paths and rules only.
    pub replaced: Option<String>,
}

impl ReportDraft {
    /// Summarises, fingerprints, scans and validates. A draft that is invalid or contains a secret is
    /// replaced by a valid report that says so.
    ///
    /// `fallback_link` is the next step of that report: `https://…` or `/…`.
    pub fn finish(self, secrets: &[SecretString], fallback_link: &str) -> FinishedReport {
        let known = Known {
            connection: self.identity.provider_connection_id,
            generated_at: self.generated_at,
            previous_report_id: self.previous_report_id,
            first_failure: self
                .checks
                .iter()
                .filter(|c| c.status == CheckStatus::Fail)
                .find_map(|c| c.reason_code),
        };
        match self.assemble().and_then(|r| verify(r, secrets)) {
            Ok((report, json)) => FinishedReport {
                report,
                json,
                replaced: None,
            },
            Err(why) => known.fallback(secrets, fallback_link, why),
        }
    }

    fn assemble(mut self) -> Result<Report, String> {
        for check in &mut self.checks {
            tidy(check);
        }
        let fingerprint =
            super::fingerprint::fingerprint(SCHEMA_VERSION, RUN_TYPE, &self.identity, &self.checks)
                .map_err(|e| format!("fingerprint: {e}"))?;
        Ok(Report {
            schema_version: SCHEMA_VERSION.to_owned(),
            flow: RUN_TYPE.to_owned(),
            generated_at: self
                .generated_at
                .to_rfc3339_opts(SecondsFormat::Millis, true),
            fingerprint,
            previous_report_id: self.previous_report_id,
            identity: self.identity,
            summary: summarise(&self.checks),
            checks: self.checks,
        })
    }
}

/// The parts of a draft that the fallback report keeps.
struct Known {
    connection: Option<ConnectionId>,
    generated_at: DateTime<Utc>,
    previous_report_id: Option<RunId>,
    first_failure: Option<Reason>,
}

impl Known {
    /// Builds the fallback report, from valid parts only: the first failing reason, and why the draft could
    /// not be used.
    fn fallback(
        self,
        secrets: &[SecretString],
        fallback_link: &str,
        why: String,
    ) -> FinishedReport {
        let link = if is_link(fallback_link) {
            fallback_link
        } else {
            "/"
        };
        let step = |label: &str| NextStep {
            label: label.to_owned(),
            url: link.to_owned(),
        };
        let mut checks = vec![Check {
            key: "report.validity".into(),
            title: "Report is valid".into(),
            status: CheckStatus::Fail,
            severity: Severity::High,
            blocking: true,
            reason_code: Some(Reason::ReportInvalid),
            message: Reason::ReportInvalid.message(),
            evidence: vec![Evidence::new(EvidenceKind::SchemaError, &why)],
            next_steps: vec![step("Look at the run and its log")],
        }];
        if let Some(reason) = self.first_failure {
            checks.push(Check {
                key: "report.original_reason".into(),
                title: "What the run ended with".into(),
                status: CheckStatus::Fail,
                severity: reason.severity(),
                blocking: true,
                reason_code: Some(reason),
                message: reason.message(),
                evidence: Vec::new(),
                next_steps: vec![step(reason.steps()[0].0)],
            });
        }
        let draft = ReportDraft {
            identity: Identity {
                provider_connection_id: self.connection,
                ..Identity::default()
            },
            generated_at: self.generated_at,
            previous_report_id: self.previous_report_id,
            checks,
        };
        let attempt = |draft: ReportDraft| draft.assemble().and_then(|r| verify(r, secrets));
        let mut bare = draft.clone();
        bare.checks[0].evidence.clear();
        bare.previous_report_id = None;
        bare.identity = Identity::default();
        // The second has no member that did not come from this file.
        let (report, json) = attempt(draft)
            .or_else(|_| attempt(bare))
            .unwrap_or_else(|_| unreachable!("the constant fallback report is valid; tested"));
        FinishedReport {
            report,
            json,
            replaced: Some(why),
        }
    }
}

/// Shortens texts that are too long. Other errors are left to the schema.
fn tidy(check: &mut Check) {
    redact::tidy(&mut check.title, limits::TITLE_CHARS);
    redact::tidy(&mut check.message, limits::MESSAGE_CHARS);
    check.evidence.truncate(limits::EVIDENCE_ITEMS);
    check.evidence.retain(|e| !e.value.is_empty());
    check.next_steps.truncate(limits::NEXT_STEPS);
    for step in &mut check.next_steps {
        redact::tidy(&mut step.label, limits::TITLE_CHARS);
    }
}

fn verify(report: Report, secrets: &[SecretString]) -> Result<(Report, Box<RawValue>), String> {
    let not_json = |e: serde_json::Error| format!("serialise: {e}");
    let text = to_raw_value(&report).map_err(not_json)?;
    if redact::may_hold_secret(text.get(), secrets) {
        let tree = serde_json::to_value(&report).map_err(not_json)?;
        if let Some(path) = redact::find_secret(&tree, secrets) {
            return Err(format!("{path}: looks like a secret"));
        }
    }
    schema::validate_built(&report, text.get()).map_err(|problems| problems.join("; "))?;
    Ok((report, text))
}

/// Returns whether a report may contain this address.
pub fn is_link(url: &str) -> bool {
    let relative = url.starts_with('/') && !url.starts_with("//");
    (relative || url.starts_with("https://"))
        && url.chars().count() <= limits::URL_CHARS
        && !url.chars().any(|c| c.is_whitespace() || c.is_control())
}

impl FinishedReport {
    /// `failure_summary` of a run that did not succeed: its failed checks in their order. At least
    /// one entry, unless nothing failed.
    pub fn failure_summary(&self, outcome: Outcome) -> Vec<FailureEntry> {
        if outcome == Outcome::Succeeded {
            return Vec::new();
        }
        self.report
            .checks
            .iter()
            .filter(|c| c.status == CheckStatus::Fail)
            .filter_map(|c| {
                c.reason_code.map(|reason_code| FailureEntry {
                    check: c.key.clone(),
                    reason_code,
                    message: c.message.clone(),
                })
            })
            .collect()
    }

    /// `context.reason_code` and `context.next_steps` of a blocked run: those of its first failed
    /// check.
    pub fn blocked_by(&self, reason: Reason) -> BlockedBy {
        let next_steps = self
            .report
            .checks
            .iter()
            .find(|c| c.reason_code == Some(reason))
            .map(|c| c.next_steps.clone())
            .unwrap_or_default();
        BlockedBy {
            reason_code: reason,
            next_steps,
        }
    }
}
