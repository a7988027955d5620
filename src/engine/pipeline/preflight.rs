//! Preflight: tests a run's prerequisites. When one is missing the run ends `blocked` and the provider is
//! never called.

use crate::domain::RunId;
use crate::domain::connection::{ConnectionStatus, ProviderConnection, StoredCredential};
use crate::domain::connection_facts::{ConnectionFacts, RecordedExpiry};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::link::{Link, LinkContext, is_guid};
use crate::domain::reason::Reason;
use crate::domain::report::{Check, Evidence, EvidenceKind, NextStep, Severity};
use crate::domain::run::{ClaimedRun, ContextProblem, RunRequest};
use crate::engine::settings::LinkSettings;
use crate::ports::clock::Clock;
use crate::ports::log_throttle::log_limited;
use crate::ports::provider::{CheckSpec, Provider, Providers, Unmet};
use crate::ports::store::StartingPoint;
use crate::ports::vault::{Vault, VaultError};
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

    /// Returns key and title of the check, and its message when it passes.
    fn texts(self) -> [&'static str; 3] {
        match self {
            Self::Tenant => [
                "preflight.tenant",
                "The run belongs to a tenant",
                "The run names its tenant.",
            ],
            Self::Connection => [
                "preflight.connection",
                "The provider connection may be used",
                "The connection exists, is enabled and belongs to the run's tenant.",
            ],
            Self::Provider => [
                "preflight.provider",
                "Provider, module and cloud are known",
                "Provider, module and cloud are known.",
            ],
            Self::TargetScope => [
                "preflight.target_scope",
                "The target is the connection's tenant",
                "The run's target is the connection's Entra tenant.",
            ],
            Self::Credential => [
                "preflight.credential",
                "The credential is ready",
                "A credential is stored, can be decrypted and has not expired.",
            ],
        }
    }

    fn spec(self) -> CheckSpec {
        let [key, title, _] = self.texts();
        CheckSpec::new(key, title, true, Severity::Critical)
    }

    fn pass(self) -> Check {
        self.spec().pass(self.texts()[2], Vec::new())
    }
}

/// The target of a run, for its report, whether preflight passed or not.
#[derive(Debug)]
pub struct RunSubject<'a> {
    pub(super) run: RunId,
    pub(super) request: &'a RunRequest,
    /// The checks of preflight; after the first that failed, all are skipped.
    pub checks: Vec<Check>,
    pub links: LinkContext,
    /// `None` when the run names none of its own tenant.
    pub connection: Option<ProviderConnection>,
    /// Facts from earlier checks that still apply.
    pub known: ConnectionFacts,
    pub provider: Option<Arc<dyn Provider>>,
    /// `None` when it is not known.
    pub module: Option<String>,
    /// The run of the connection's latest report.
    pub previous: Option<RunId>,
}

/// Whether the provider may be called.
#[derive(Debug)]
pub enum PreflightResult {
    Ready(Box<Ready>),
    Blocked(Reason),
}

/// The input of a check.
#[derive(Debug)]
pub struct Ready {
    pub connection: ProviderConnection,
    pub provider: Arc<dyn Provider>,
    pub module: String,
    pub credential: Credential,
    /// When the credential was last replaced.
    pub credential_changed_at: Option<DateTime<Utc>>,
    pub credential_expiry: RecordedExpiry,
    pub entra_tenant_id: String,
}

/// The member of the context that names the connection.
const ID: &str = "context.provider_connection_id";

/// A prerequisite that is not met, and the step that found it.
type Stop = (Step, Unmet);

/// Tests prerequisites against the content of the database. It sends no requests.
pub struct Preflight {
    vault: Arc<dyn Vault>,
    providers: Providers,
    clock: Arc<dyn Clock>,
    links: LinkSettings,
}

impl std::fmt::Debug for Preflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preflight")
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}

impl Preflight {
    /// Creates a preflight with these providers and keys.
    pub fn new(
        vault: Arc<dyn Vault>,
        providers: Providers,
        clock: Arc<dyn Clock>,
        links: LinkSettings,
    ) -> Self {
        Self {
            vault,
            providers,
            clock,
            links,
        }
    }

    /// Returns the time that reports carry and expiry dates are compared with.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Tests the prerequisites of a run. `start`: its connection, if there is one.
    pub fn check<'a>(
        &self,
        run: &'a ClaimedRun,
        start: Option<StartingPoint>,
    ) -> (RunSubject<'a>, PreflightResult) {
        let mut subject = self.unknown(run, &run.request);
        let (latest_run, kept) = start.as_ref().map_or((None, None), |start| {
            (start.latest_run, start.facts.clone())
        });
        let changed_at = start
            .as_ref()
            .and_then(|start| start.credential.as_ref()?.updated_at);
        let result = self.test_prerequisites(run, start, &mut subject);
        if let Some(connection) = &subject.connection {
            // Nothing of another tenant's connection is reported.
            subject.previous = latest_run.filter(|id| *id != run.id);
            if let Some(kept) = kept {
                subject.known = kept.still_true(connection, changed_at);
            }
        }
        subject.links = self.links_of(&subject);
        let links = &subject.links;
        let stopped_at = result.as_ref().err().map(|(step, _)| *step);
        subject.checks = Step::ALL
            .into_iter()
            .map(|step| match stopped_at {
                Some(at) if step > at => step.spec().skip(links),
                _ => step.pass(),
            })
            .collect();
        let result = match result {
            Ok(ready) => PreflightResult::Ready(Box::new(ready)),
            Err((step, unmet)) => {
                let mut check = step.spec().fail(unmet.reason, links, unmet.evidence);
                name_step_of_cause(&mut check, links);
                subject.checks[step as usize] = check;
                PreflightResult::Blocked(unmet.reason)
            }
        };
        (subject, result)
    }

    /// Returns the target of a run whose prerequisites have not been tested.
    pub fn unknown<'a>(&self, run: &ClaimedRun, request: &'a RunRequest) -> RunSubject<'a> {
        let mut subject = RunSubject {
            run: run.id,
            request,
            checks: Vec::new(),
            links: LinkContext::default(),
            connection: None,
            known: ConnectionFacts::default(),
            provider: None,
            module: None,
            previous: None,
        };
        subject.links = self.links_of(&subject);
        subject
    }

    /// Returns the target of a run whose connection has an invalid value in its row. Only the column is
    /// reported: the row may belong to another tenant.
    pub fn unreadable_connection<'a>(
        &self,
        run: &'a ClaimedRun,
        column: &str,
        allowed: &str,
    ) -> RunSubject<'a> {
        let mut subject = self.unknown(run, &run.request);
        let unmet = Unmet::field(Reason::ConnectionMalformed, column, allowed);
        let links = &subject.links;
        subject.checks = Step::ALL
            .into_iter()
            .map(|step| match step {
                Step::Tenant => step.pass(),
                Step::Connection => step
                    .spec()
                    .fail(unmet.reason, links, unmet.evidence.clone()),
                _ => step.spec().skip(links),
            })
            .collect();
        subject
    }

    /// Returns where next steps lead, as far as the run's connection is known and its own.
    fn links_of(&self, subject: &RunSubject<'_>) -> LinkContext {
        let connection = subject.connection.as_ref();
        let cloud = connection.and_then(|c| c.cloud.as_deref());
        LinkContext {
            run_id: subject.run.0,
            connection_id: subject.request.provider_connection_id.map(|id| id.0),
            entra_tenant_id: connection.and_then(|c| c.entra_tenant_id.clone()),
            client_id: connection.and_then(|c| c.client_id.clone()),
            owner_tenant_id: subject.known.owner_tenant_id.clone(),
            service_principal_id: subject.known.service_principal_id.clone(),
            ..self.links.context(subject.provider.as_deref(), cloud)
        }
    }

    /// Tests one prerequisite after another, up to the first that is not met. Adds to `subject` what it finds.
    fn test_prerequisites(
        &self,
        run: &ClaimedRun,
        start: Option<StartingPoint>,
        subject: &mut RunSubject<'_>,
    ) -> Result<Ready, Stop> {
        let request = &run.request;
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
        malformed(request, ID).map_err(at)?;
        let (connection, stored) = match (request.provider_connection_id, start) {
            (Some(_), Some(start)) => (start.connection, start.credential),
            (named, _) => {
                let mut unmet = Unmet::field(
                    Reason::ConnectionMissing,
                    ID,
                    "the id of a provider connection",
                );
                let found = named.map(|id| Evidence::new(EvidenceKind::Found, id));
                unmet.evidence.extend(found);
                return Err(at(unmet));
            }
        };
        // Nothing of another tenant's connection is reported, not even that it is disabled.
        if run.workspace_id != Some(connection.workspace_id) {
            let (field, allowed) = match run.workspace_id {
                None => ("workspace_id", "the id of the connection's workspace"),
                Some(_) => (ID, "a connection of the run's workspace"),
            };
            let unmet = Unmet::field(Reason::ConnectionWorkspaceMismatch, field, allowed);
            return Err(at(unmet));
        }
        if tenant != connection.tenant_id {
            let allowed = "a connection of the run's tenant";
            return Err(at(Unmet::field(
                Reason::ConnectionTenantMismatch,
                ID,
                allowed,
            )));
        }
        subject.connection = Some(connection.clone());
        if connection.status == ConnectionStatus::Disabled {
            return Err(at(bare(Reason::ConnectionDisabled)));
        }

        let (provider, module) = self.known_provider(request, &connection, subject)?;
        let entra_tenant_id =
            target_scope(request, &connection).map_err(|u| (Step::TargetScope, u))?;

        let stored = stored.ok_or_else(|| (Step::Credential, bare(Reason::CredentialMissing)))?;
        let credential = self
            .open_credential(&connection, &stored)
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
        Ok(Ready {
            connection,
            provider,
            module,
            credential,
            credential_changed_at: stored.updated_at,
            credential_expiry: stored.expiry,
            entra_tenant_id,
        })
    }

    /// Returns provider and module; leaves both in `subject`, each as soon as it is known.
    fn known_provider(
        &self,
        request: &RunRequest,
        connection: &ProviderConnection,
        subject: &mut RunSubject<'_>,
    ) -> Result<(Arc<dyn Provider>, String), Stop> {
        let at = |unmet: Unmet| (Step::Provider, unmet);
        malformed(request, "context.provider").map_err(at)?;
        let known = self.providers.keys().join(", ");
        let unknown = |path, found: &str| at(other(Reason::ProviderUnknown, path, &known, found));
        let own = &connection.provider;
        let provider = self
            .providers
            .get(own)
            .ok_or_else(|| unknown("provider_connections.provider", own))?;
        subject.provider = Some(Arc::clone(provider));
        if let Some(asked) = request.provider.as_deref().filter(|asked| asked != own) {
            let path = "context.provider";
            return Err(match self.providers.get(asked) {
                None => unknown(path, asked),
                Some(_) => at(other(Reason::ProviderMismatch, path, own, asked)),
            });
        }
        malformed(request, "context.module").map_err(at)?;
        let modules = provider.modules();
        let module = request
            .module
            .as_deref()
            .or(connection.module.as_deref())
            .or(modules.first().copied())
            .unwrap_or_default()
            .to_owned();
        if !modules.contains(&module.as_str()) {
            // Also where the run has repeated it.
            let is_own = connection.module.as_ref() == Some(&module);
            let path = match is_own {
                true => "provider_connections.module",
                false => "context.module",
            };
            let allowed = modules.join(", ");
            return Err(at(other(Reason::ModuleUnknown, path, &allowed, &module)));
        }
        subject.module = Some(module.clone());
        Ok((Arc::clone(provider), module))
    }

    /// Opens the stored credential, unless its recorded expiry has passed.
    fn open_credential(
        &self,
        connection: &ProviderConnection,
        stored: &StoredCredential,
    ) -> Result<Credential, Unmet> {
        if let Some(expires_at) = stored.expiry.at()
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
            .open(connection.binding(), stored)
            .map_err(|error| {
                log_limited!(warn, %error, "the stored credential cannot be used");
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

/// Puts the next step for the cause in place of those at the same address that the reason has for all its causes.
fn name_step_of_cause(check: &mut Check, links: &LinkContext) {
    let cause = check
        .evidence
        .iter()
        .find(|evidence| evidence.kind == EvidenceKind::Cause)
        .and_then(|evidence| Cause::of(&evidence.value));
    if let Some(cause) = cause {
        let url = links.resolve(Link::Connection);
        check.next_steps.retain(|step| step.url != url);
        let label = cause.step().to_owned();
        check.next_steps.insert(0, NextStep { url, label });
    }
}

fn bare(reason: Reason) -> Unmet {
    Unmet {
        reason,
        evidence: Vec::new(),
    }
}

/// Fails for a field with a value that is not allowed.
fn other(reason: Reason, path: &str, allowed: &str, found: &str) -> Unmet {
    Unmet::field(reason, path, allowed).with_found(found)
}

/// Fails for a member of the context that has a wrong type.
fn malformed(request: &RunRequest, path: &str) -> Result<(), Unmet> {
    let found = request.malformed.iter().find(|(at, _)| *at == path);
    found.map_or(Ok(()), |(path, allowed)| {
        Err(Unmet::field(Reason::ContextMalformed, path, allowed))
    })
}

/// Describes a context of which nothing can be read.
fn context_problem(problem: &ContextProblem) -> Unmet {
    let reason = match problem {
        ContextProblem::TooLarge { .. } => Reason::ContextTooLarge,
        _ => Reason::ContextMalformed,
    };
    other(reason, "context", &problem.allowed(), &problem.found())
}

/// Returns the target, which must be the connection's directory. Where the connection has none, no target fits.
fn target_scope(request: &RunRequest, connection: &ProviderConnection) -> Result<String, Unmet> {
    const PATH: &str = "context.target_scope.entra_tenant_id";
    const OWN: &str = "provider_connections.entra_tenant_id";
    let own = connection.entra_tenant_id.as_deref().unwrap_or_default();
    if !is_guid(own) {
        let found = if own.is_empty() { "none" } else { own };
        return Err(other(Reason::ConnectionMalformed, OWN, "a GUID", found));
    }
    let unmet = |reason| Unmet::field(reason, PATH, "a GUID");
    malformed(request, "context.target_scope")?;
    malformed(request, PATH).map_err(|_| unmet(Reason::TargetScopeMalformed))?;
    let asked = request
        .target_scope
        .as_ref()
        .and_then(|scope| scope.entra_tenant_id.as_deref())
        .ok_or_else(|| unmet(Reason::TargetScopeMissing))?;
    if !is_guid(asked) {
        return Err(unmet(Reason::TargetScopeMalformed));
    }
    if !own.eq_ignore_ascii_case(asked) {
        return Err(Unmet {
            reason: Reason::TargetScopeMismatch,
            evidence: vec![
                Evidence::new(EvidenceKind::Field, PATH),
                Evidence::new(EvidenceKind::Expected, own),
                Evidence::new(EvidenceKind::Found, asked),
            ],
        });
    }
    Ok(asked.to_ascii_lowercase())
}
