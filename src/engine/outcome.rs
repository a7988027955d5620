//! From what was found to what the run ends with: outcome, report, failure summary, inventory.

use super::Engine;
use super::preflight::Surveyed;
use crate::domain::completion::{CheckedScope, CheckedTarget, Completion, FailureEntry};
use crate::domain::connection::is_cloud_key;
use crate::domain::credential::Credential;
use crate::domain::link::{Link, is_guid};
use crate::domain::reason::Reason;
use crate::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, ReportDraft, Severity,
};
use crate::domain::run::{ClaimedRun, RunRequest};
use crate::domain::{Outcome, RunId};
use crate::ports::provider::{CheckSpec, Findings};
use std::sync::Arc;

/// How the work on a run ended.
#[derive(Debug)]
pub enum Ending {
    /// A prerequisite is missing.
    Blocked(Reason),
    /// The provider was asked.
    Checked(Box<Findings>),
    /// verifyd could not finish.
    Broken {
        reason: Reason,
        evidence: Vec<Evidence>,
    },
}

/// The check that stands for verifyd's own failure.
fn engine_check() -> CheckSpec {
    CheckSpec {
        key: "engine.completion".to_owned(),
        title: "The check could be finished".to_owned(),
        blocking: true,
        severity: Severity::High,
    }
}

impl Engine {
    /// Builds, validates and wraps up what the run ends with.
    pub fn conclude(
        &self,
        run: &ClaimedRun,
        request: &RunRequest,
        surveyed: &Surveyed,
        credential: Option<&Credential>,
        previous: Option<RunId>,
        ending: Ending,
    ) -> Completion {
        let links = &surveyed.links;
        let planned = || -> Vec<Check> {
            match (&surveyed.provider, &surveyed.module) {
                (Some(provider), Some(module)) => provider
                    .planned_checks(module)
                    .iter()
                    .map(|spec| spec.skip(links))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let mut checks = surveyed.checks.clone();
        let mut inventory = None;
        let mut name = surveyed.known.entra_tenant_name.clone();
        let (outcome, blocked_by) = match ending {
            Ending::Blocked(reason) => {
                checks.extend(planned());
                (Outcome::Blocked, Some(reason))
            }
            Ending::Broken { reason, evidence } => {
                checks.push(engine_check().fail(reason, links, evidence));
                checks.extend(planned());
                (Outcome::Failed, None)
            }
            Ending::Checked(findings) => {
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
            identity: identity(request, surveyed),
            generated_at: self.clock.now(),
            previous_report_id: previous,
            checks,
        }
        .finish(&secrets, &links.resolve(Link::Run));
        if let Some(why) = &finished.replaced {
            metrics::counter!("verifyd_reports_replaced_total").increment(1);
            tracing::error!(run = run.id.0, %why, "the report was not valid and has been replaced");
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
            checked: surveyed
                .provider
                .as_ref()
                .zip(surveyed.module.as_ref())
                .map(|(provider, module)| CheckedTarget {
                    provider: provider.key().to_owned(),
                    module: module.clone(),
                    target_scope: name
                        .filter(|_| lacks_name(request, surveyed))
                        .map(|entra_tenant_name| CheckedScope { entra_tenant_name }),
                }),
            inventory,
            connection: surveyed.connection.as_ref().map(|c| c.id),
            facts: None,
        }
    }

    /// The ending of a run whose attempts are spent.
    pub fn worker_lost(attempts: u32) -> Ending {
        Ending::Broken {
            reason: Reason::WorkerLost,
            evidence: vec![Evidence::new(EvidenceKind::Attempts, attempts)],
        }
    }
}

/// Whether the run names the connection's directory by its id only.
fn lacks_name(request: &RunRequest, surveyed: &Surveyed) -> bool {
    let own = surveyed
        .connection
        .as_ref()
        .and_then(|c| c.entra_tenant_id.as_deref());
    request.target_scope.as_ref().is_some_and(|scope| {
        let id = scope.entra_tenant_id.as_deref();
        scope.entra_tenant_name.is_none()
            && id
                .zip(own)
                .is_some_and(|(id, own)| id.eq_ignore_ascii_case(own))
    })
}

/// Whom the report is about: of the connection only when it is the run's own.
fn identity(request: &RunRequest, surveyed: &Surveyed) -> Identity {
    let guid = |text: Option<&String>| text.filter(|t| is_guid(t)).map(|t| t.to_ascii_lowercase());
    let connection = surveyed.connection.as_ref();
    Identity {
        provider_connection_id: request.provider_connection_id.filter(|id| id.0 > 0),
        entra_tenant_id: guid(connection.and_then(|c| c.entra_tenant_id.as_ref())),
        client_id: guid(connection.and_then(|c| c.client_id.as_ref())),
        cloud: connection
            .and_then(|c| {
                c.cloud
                    .clone()
                    .or_else(|| surveyed.provider.as_ref().map(|p| p.default_cloud()))
            })
            .filter(|key| is_cloud_key(key)),
    }
}
