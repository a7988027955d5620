//! Turns the result of a run into its completion: outcome, report, failure summary, inventory.

use super::preflight::RunSubject;
use crate::domain::Outcome;
use crate::domain::completion::{CheckedScope, CheckedTarget, Completion, FailureEntry};
use crate::domain::connection::is_cloud_key;
use crate::domain::credential::Credential;
use crate::domain::link::{Link, is_guid};
use crate::domain::reason::Reason;
use crate::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, ReportDraft, Severity,
};
use crate::ports::log_throttle::log_limited;
use crate::ports::provider::{CheckSpec, Findings};
use crate::ports::store::Claim;
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// The result of a run.
#[derive(Debug)]
pub(super) enum RunResult {
    /// A prerequisite is missing.
    Blocked(Reason),
    /// The provider was called.
    Checked(Box<Findings>),
    /// verifyd could not finish.
    Broken {
        reason: Reason,
        evidence: Vec<Evidence>,
    },
}

impl RunResult {
    /// Creates the result of a run whose attempts are spent.
    pub fn exhausted(claim: &Claim) -> Self {
        let mut evidence = vec![Evidence::new(
            EvidenceKind::Attempts,
            claim.counted_attempts,
        )];
        let refusal = claim.result_refusal.as_ref();
        evidence.extend(refusal.map(|why| Evidence::new(EvidenceKind::DatabaseRefusal, why)));
        Self::Broken {
            reason: match refusal {
                Some(_) => Reason::ResultRefused,
                None => Reason::WorkerLost,
            },
            evidence,
        }
    }
}

/// Returns the check that represents a failure of verifyd itself.
fn engine_check() -> CheckSpec {
    let title = "The check could be finished";
    CheckSpec::new("engine.completion", title, true, Severity::High)
}

impl RunSubject<'_> {
    /// Builds the completion, with a report that is valid and contains no secret.
    pub(super) fn conclude(
        &self,
        result: RunResult,
        credential: Option<&Credential>,
        now: DateTime<Utc>,
    ) -> Completion {
        let links = &self.links;
        let planned = || -> Vec<Check> {
            match (&self.provider, &self.module) {
                (Some(provider), Some(module)) => provider
                    .planned_checks(module)
                    .iter()
                    .map(|spec| spec.skip(links))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let mut checks = self.checks.clone();
        let mut inventory = None;
        let mut name = self.known.entra_tenant_name.clone();
        let (outcome, blocked_by) = match result {
            RunResult::Blocked(reason) => {
                checks.extend(planned());
                (Outcome::Blocked, Some(reason))
            }
            RunResult::Broken { reason, evidence } => {
                checks.push(engine_check().fail(reason, links, evidence));
                checks.extend(planned());
                (Outcome::Failed, None)
            }
            RunResult::Checked(findings) => {
                checks.extend(findings.checks);
                name = findings.facts.entra_tenant_name.or(name);
                let succeeded = findings.healthy && findings.inventory.is_some();
                inventory = findings.inventory.map(Arc::new);
                if succeeded {
                    (Outcome::Succeeded, None)
                } else {
                    if !checks.iter().any(|c| c.status == CheckStatus::Fail) {
                        // A failed run always says why.
                        checks.push(engine_check().fail(Reason::InternalError, links, vec![]));
                    }
                    (Outcome::Failed, None)
                }
            }
        };

        let secrets = credential
            .map(Credential::secret_values)
            .unwrap_or_default();
        let finished = ReportDraft {
            identity: self.identity(),
            generated_at: now,
            previous_report_id: self.previous,
            checks,
        }
        .finish(&secrets, &links.resolve(Link::Run));
        if let Some(why) = &finished.replaced {
            metrics::counter!("verifyd_reports_replaced_total").increment(1);
            log_limited!(error, run = self.run.0, %why, "the report was not valid and has been replaced");
        }

        let mut failure_summary = finished.failure_summary(outcome);
        if outcome != Outcome::Succeeded && failure_summary.is_empty() {
            failure_summary.push(FailureEntry {
                check: engine_check().key,
                reason_code: Reason::InternalError,
                message: Reason::InternalError.message(),
            });
        }
        Completion {
            outcome,
            blocked: blocked_by.map(|reason| finished.blocked_by(reason)),
            fingerprint: finished.report.fingerprint.clone(),
            overall: finished.report.summary.overall.as_str().to_owned(),
            report: finished.json,
            failure_summary,
            checked: self
                .provider
                .as_ref()
                .zip(self.module.as_ref())
                .map(|(provider, module)| CheckedTarget {
                    provider: provider.key().to_owned(),
                    module: module.clone(),
                    target_scope: name
                        .filter(|_| self.lacks_name())
                        .map(|entra_tenant_name| CheckedScope { entra_tenant_name }),
                }),
            inventory,
            connection: self.connection.as_ref().map(|c| c.id),
            facts: None,
        }
    }

    /// Returns whether the run names the connection's directory by its id only.
    fn lacks_name(&self) -> bool {
        let own = self
            .connection
            .as_ref()
            .and_then(|c| c.entra_tenant_id.as_deref());
        self.request.target_scope.as_ref().is_some_and(|scope| {
            let id = scope.entra_tenant_id.as_deref();
            scope.entra_tenant_name.is_none()
                && id
                    .zip(own)
                    .is_some_and(|(id, own)| id.eq_ignore_ascii_case(own))
        })
    }

    /// Returns whom the report is about: of the connection only when it is the run's own.
    fn identity(&self) -> Identity {
        let guid =
            |text: Option<&String>| text.filter(|t| is_guid(t)).map(|t| t.to_ascii_lowercase());
        let connection = self.connection.as_ref();
        Identity {
            provider_connection_id: self.request.provider_connection_id.filter(|id| id.0 > 0),
            entra_tenant_id: guid(connection.and_then(|c| c.entra_tenant_id.as_ref())),
            client_id: guid(connection.and_then(|c| c.client_id.as_ref())),
            cloud: connection
                .and_then(|c| {
                    c.cloud
                        .clone()
                        .or_else(|| self.provider.as_ref().map(|p| p.default_cloud()))
                })
                .filter(|key| is_cloud_key(key)),
        }
    }
}
