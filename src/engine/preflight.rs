//! The prerequisites. When one is missing the run ends `blocked` and the provider is never called.

use super::Engine;
use crate::domain::connection::{ConnectionStatus, ProviderConnection, StoredCredential};
use crate::domain::connection_facts::{ConnectionFacts, KeptFacts};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::link::{Link, LinkContext, is_guid};
use crate::domain::reason::Reason;
use crate::domain::report::{Check, Evidence, EvidenceKind, NextStep, Severity};
use crate::domain::run::{ClaimedRun, ContextProblem, RunRequest};
use crate::ports::provider::{CheckSpec, Provider, Unmet};
use crate::ports::vault::VaultError;
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// The checks of preflight, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Tenant,
    Connection,
    Provider,
    TargetScope,
    Credential,
}

impl Step {
    const ALL: [Self; 5] = [
        Self::Tenant,
        Self::Connection,
        Self::Provider,
        Self::TargetScope,
        Self::Credential,
    ];

    fn spec(self) -> CheckSpec {
        let (key, title) = match self {
            Self::Tenant => ("preflight.tenant", "The run belongs to a tenant"),
            Self::Connection => (
                "preflight.connection",
                "The provider connection may be used",
            ),
            Self::Provider => ("preflight.provider", "Provider, module and cloud are known"),
            Self::TargetScope => (
                "preflight.target_scope",
                "The target is the connection's tenant",
            ),
            Self::Credential => ("preflight.credential", "The credential is ready"),
        };
        CheckSpec {
            key: key.to_owned(),
            title: title.to_owned(),
            blocking: true,
            severity: Severity::Critical,
        }
    }

    fn passed(self) -> &'static str {
        match self {
            Self::Tenant => "The run names its tenant.",
            Self::Connection => {
                "The connection exists, is enabled and belongs to the run's tenant."
            }
            Self::Provider => "Provider, module and cloud are known.",
            Self::TargetScope => "The run's target is the connection's Entra tenant.",
            Self::Credential => "A credential is stored, can be decrypted and has not expired.",
        }
    }
}

/// What preflight knows of a run, whether it passed or not.
#[derive(Debug)]
pub struct Surveyed {
    /// The checks of preflight; after the first that failed, all are skipped.
    pub checks: Vec<Check>,
    pub links: LinkContext,
    /// Null when the run names none of its own tenant.
    pub connection: Option<ProviderConnection>,
    /// What earlier checks have learnt of it, as far as it still counts.
    pub known: ConnectionFacts,
    pub provider: Option<Arc<dyn Provider>>,
    /// Null when it is not known.
    pub module: Option<String>,
    pub verdict: Verdict,
}

/// Whether the provider may be called.
#[derive(Debug)]
pub enum Verdict {
    Ready {
        credential: Credential,
        /// When the credential was last replaced.
        credential_changed_at: Option<DateTime<Utc>>,
        /// When it expires, as it was recorded with it.
        credential_expires_at: Option<DateTime<Utc>>,
        entra_tenant_id: String,
    },
    Blocked(Reason),
}

/// What is learnt on the way through the steps.
#[derive(Default)]
struct Found {
    connection: Option<ProviderConnection>,
    provider: Option<Arc<dyn Provider>>,
    module: Option<String>,
}

type Stop = (Step, Unmet);

impl Engine {
    /// Tests the prerequisites of a run against what the database holds. Calls nobody.
    pub fn preflight(
        &self,
        run: &ClaimedRun,
        request: &RunRequest,
        stored: Option<(ProviderConnection, Option<StoredCredential>)>,
        kept: Option<KeptFacts>,
    ) -> Surveyed {
        let mut found = Found::default();
        let credential = stored
            .as_ref()
            .and_then(|(_, credential)| credential.as_ref());
        let credential_changed_at = credential.and_then(|credential| credential.updated_at);
        let credential_expires_at = credential.and_then(|credential| credential.expires_at);
        let result = self.walk(run, request, stored, &mut found);
        let known = match (&found.connection, kept) {
            (Some(connection), Some(kept)) => kept.still_true(connection, credential_changed_at),
            _ => ConnectionFacts::default(),
        };
        let mut links = self.links_for(
            run,
            request,
            found.connection.as_ref(),
            found.provider.as_deref(),
        );
        links.owner_tenant_id = known.owner_tenant_id.clone();
        links.service_principal_id = known.service_principal_id.clone();
        let stopped_at = result.as_ref().err().map(|(step, _)| *step);
        let mut checks: Vec<Check> = Step::ALL
            .into_iter()
            .map(|step| match stopped_at {
                Some(at) if step > at => step.spec().skip(&links),
                _ => step.spec().pass(step.passed(), Vec::new()),
            })
            .collect();
        let verdict = match result {
            Ok((credential, entra_tenant_id)) => Verdict::Ready {
                credential,
                credential_changed_at,
                credential_expires_at,
                entra_tenant_id,
            },
            Err((step, unmet)) => {
                let reason = unmet.reason;
                let mut check = step.spec().fail(reason, &links, unmet.evidence);
                step_of_cause(&mut check, &links);
                checks[step as usize] = check;
                Verdict::Blocked(reason)
            }
        };
        Surveyed {
            checks,
            links,
            connection: found.connection,
            known,
            provider: found.provider,
            module: found.module,
            verdict,
        }
    }

    /// What is known of a run whose prerequisites could not even be looked at.
    pub fn unsurveyed(&self, run: &ClaimedRun, request: &RunRequest) -> Surveyed {
        Surveyed {
            checks: Vec::new(),
            links: self.links_for(run, request, None, None),
            connection: None,
            known: ConnectionFacts::default(),
            provider: None,
            module: None,
            verdict: Verdict::Blocked(Reason::InternalError),
        }
    }

    /// What is known of a run whose connection's row holds a value that cannot be used. Nothing is told
    /// of that row but which column it is: it may be a stranger's.
    pub fn unreadable_connection(&self, run: &ClaimedRun, column: &str, allowed: &str) -> Surveyed {
        let mut surveyed = self.unsurveyed(run, &run.request);
        let unmet = Unmet::field(Reason::ConnectionMalformed, column, allowed);
        surveyed.checks = Step::ALL
            .into_iter()
            .map(|step| match step {
                Step::Tenant => step.spec().pass(step.passed(), Vec::new()),
                Step::Connection => {
                    step.spec()
                        .fail(unmet.reason, &surveyed.links, unmet.evidence.clone())
                }
                _ => step.spec().skip(&surveyed.links),
            })
            .collect();
        surveyed.verdict = Verdict::Blocked(unmet.reason);
        surveyed
    }

    fn walk(
        &self,
        run: &ClaimedRun,
        request: &RunRequest,
        stored: Option<(ProviderConnection, Option<StoredCredential>)>,
        found: &mut Found,
    ) -> Result<(Credential, String), Stop> {
        let tenant = run.tenant_id.ok_or_else(|| {
            (
                Step::Tenant,
                Unmet::field(Reason::TenantMissing, "tenant_id", "the id of a tenant"),
            )
        })?;

        let at = |unmet: Unmet| (Step::Connection, unmet);
        if let Some(problem) = &request.problem {
            return Err(at(context_problem(problem)));
        }
        if let Some(unmet) = malformed(request, "context.provider_connection_id") {
            return Err(at(unmet));
        }
        let (connection, credential) = match (request.provider_connection_id, stored) {
            (Some(_), Some(stored)) => stored,
            (named, _) => {
                let path = "context.provider_connection_id";
                let mut unmet = Unmet::field(
                    Reason::ConnectionMissing,
                    path,
                    "the id of a provider connection",
                );
                if let Some(id) = named {
                    unmet.evidence.push(Evidence::new(EvidenceKind::Found, id));
                }
                return Err(at(unmet));
            }
        };
        // Nothing of a stranger's connection is told, not even that it is disabled.
        if run.workspace_id != Some(connection.workspace_id) {
            return Err(at(Unmet::field(
                Reason::ConnectionWorkspaceMismatch,
                "context.provider_connection_id",
                "a connection of the run's workspace",
            )));
        }
        if tenant != connection.tenant_id {
            return Err(at(Unmet::field(
                Reason::ConnectionTenantMismatch,
                "context.provider_connection_id",
                "a connection of the run's tenant",
            )));
        }
        let connection = found.connection.insert(connection).clone();
        if connection.status == ConnectionStatus::Disabled {
            return Err(at(Unmet {
                reason: Reason::ConnectionDisabled,
                evidence: Vec::new(),
            }));
        }

        let provider = self.known_provider(request, &connection, found)?;
        let entra_tenant_id =
            target_scope(request, &connection).map_err(|u| (Step::TargetScope, u))?;

        let credential = self
            .usable_credential(&connection, credential)
            .map_err(|u| (Step::Credential, u))?;
        provider
            .preflight(&connection, &credential)
            .map_err(|unmet| {
                let step = match unmet.reason {
                    Reason::CredentialMalformed
                    | Reason::CredentialExpired
                    | Reason::CertificateNotYetValid
                    | Reason::CredentialMissing => Step::Credential,
                    _ => Step::Provider,
                };
                (step, unmet)
            })?;
        Ok((credential, entra_tenant_id))
    }

    /// The provider; leaves the module in `found`.
    fn known_provider(
        &self,
        request: &RunRequest,
        connection: &ProviderConnection,
        found: &mut Found,
    ) -> Result<Arc<dyn Provider>, Stop> {
        let at = |unmet: Unmet| (Step::Provider, unmet);
        let named = |reason, path: &str, allowed: String, value: Option<&str>| {
            let mut unmet = Unmet::field(reason, path, &allowed);
            if let Some(value) = value {
                unmet
                    .evidence
                    .push(Evidence::new(EvidenceKind::Found, value));
            }
            at(unmet)
        };
        let known = self.providers.keys().join(", ");
        if let Some(unmet) = malformed(request, "context.provider") {
            return Err(at(unmet));
        }
        let provider = self.providers.get(&connection.provider).ok_or_else(|| {
            named(
                Reason::ProviderUnknown,
                "provider_connections.provider",
                known.clone(),
                Some(&connection.provider),
            )
        })?;
        found.provider = Some(Arc::clone(provider));
        match request.provider.as_deref() {
            Some(asked) if self.providers.get(asked).is_none() => {
                return Err(named(
                    Reason::ProviderUnknown,
                    "context.provider",
                    known,
                    Some(asked),
                ));
            }
            Some(asked) if asked != connection.provider => {
                return Err(named(
                    Reason::ProviderMismatch,
                    "context.provider",
                    connection.provider.clone(),
                    Some(asked),
                ));
            }
            _ => {}
        }
        let modules = provider.modules();
        if let Some(unmet) = malformed(request, "context.module") {
            return Err(at(unmet));
        }
        let module = request
            .module
            .as_deref()
            .or(connection.module.as_deref())
            .or(modules.first().copied())
            .unwrap_or_default()
            .to_owned();
        if !modules.contains(&module.as_str()) {
            return Err(named(
                Reason::ModuleUnknown,
                "context.module",
                modules.join(", "),
                Some(&module),
            ));
        }
        found.module = Some(module);
        Ok(Arc::clone(provider))
    }

    fn usable_credential(
        &self,
        connection: &ProviderConnection,
        stored: Option<StoredCredential>,
    ) -> Result<Credential, Unmet> {
        let stored = stored.ok_or(Unmet {
            reason: Reason::CredentialMissing,
            evidence: Vec::new(),
        })?;
        if let Some(expires_at) = stored.expires_at
            && expires_at <= self.clock.now()
        {
            return Err(Unmet {
                reason: Reason::CredentialExpired,
                evidence: vec![Evidence::new(
                    EvidenceKind::ExpiresAt,
                    expires_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
                )],
            });
        }
        self.vault
            .open(connection.binding(), &stored)
            .map_err(|error| {
                tracing::warn!(%error, "the stored credential cannot be used");
                Unmet {
                    reason: match error {
                        VaultError::Malformed(_) => Reason::CredentialMalformed,
                        VaultError::Undecryptable(_) | VaultError::NoKey => {
                            Reason::CredentialUndecryptable
                        }
                    },
                    evidence: error.flaw().map(Flaw::evidence).unwrap_or_default(),
                }
            })
    }
}

/// Puts what mends the cause in front of what the reason says for all of its causes.
fn step_of_cause(check: &mut Check, links: &LinkContext) {
    let cause = check
        .evidence
        .iter()
        .find(|evidence| evidence.kind == EvidenceKind::Cause)
        .and_then(|evidence| Cause::of(&evidence.value));
    if let Some(cause) = cause {
        check.next_steps.retain(|step| step.label != cause.step());
        let url = links.resolve(Link::Connection);
        let label = cause.step().to_owned();
        check.next_steps.insert(0, NextStep { url, label });
    }
}

/// A member of the context that is there, but of a wrong type.
fn malformed(request: &RunRequest, path: &str) -> Option<Unmet> {
    let (path, allowed) = request.malformed.iter().find(|(at, _)| *at == path)?;
    Some(Unmet::field(Reason::ContextMalformed, path, allowed))
}

/// A context of which nothing can be read.
fn context_problem(problem: &ContextProblem) -> Unmet {
    let reason = match problem {
        ContextProblem::TooLarge { .. } => Reason::ContextTooLarge,
        _ => Reason::ContextMalformed,
    };
    let mut unmet = Unmet::field(reason, "context", &problem.allowed());
    unmet
        .evidence
        .push(Evidence::new(EvidenceKind::Found, problem.found()));
    unmet
}

fn target_scope(request: &RunRequest, connection: &ProviderConnection) -> Result<String, Unmet> {
    const PATH: &str = "context.target_scope.entra_tenant_id";
    if let Some(unmet) = malformed(request, "context.target_scope") {
        return Err(unmet);
    }
    if malformed(request, PATH).is_some() {
        return Err(Unmet::field(Reason::TargetScopeMalformed, PATH, "a GUID"));
    }
    let asked = request
        .target_scope
        .as_ref()
        .and_then(|scope| scope.entra_tenant_id.as_deref())
        .ok_or_else(|| Unmet::field(Reason::TargetScopeMissing, PATH, "a GUID"))?;
    if !is_guid(asked) {
        return Err(Unmet::field(Reason::TargetScopeMalformed, PATH, "a GUID"));
    }
    let same = connection
        .entra_tenant_id
        .as_deref()
        .is_some_and(|own| own.eq_ignore_ascii_case(asked));
    if !same {
        return Err(Unmet {
            reason: Reason::TargetScopeMismatch,
            evidence: vec![
                Evidence::new(EvidenceKind::Field, PATH),
                Evidence::new(
                    EvidenceKind::Expected,
                    connection.entra_tenant_id.as_deref().unwrap_or("none"),
                ),
                Evidence::new(EvidenceKind::Found, asked),
            ],
        });
    }
    Ok(asked.to_ascii_lowercase())
}
