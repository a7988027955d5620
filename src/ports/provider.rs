//! Providers: the services that a connection is checked with.

use crate::domain::connection::ProviderConnection;
use crate::domain::connection_facts::{ConnectionFacts, RecordedExpiry};
use crate::domain::credential::Credential;
use crate::domain::link::{Link, LinkBases, LinkContext};
use crate::domain::module::Module;
use crate::domain::permission::{InventoryRefresh, RequiredPermission};
use crate::domain::report::{Check, CheckStatus, Evidence, EvidenceKind, Severity};
use crate::domain::{Reason, RunId};
use crate::ports::open_calls::OpenCalls;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// A check that a provider makes, known before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// Dotted, unique within a report.
    pub key: String,
    pub title: String,
    /// A failure makes the whole report `blocked`.
    pub blocking: bool,
    /// Severity of a failure, unless the reason sets one.
    pub severity: Severity,
}

impl CheckSpec {
    /// A check with this severity of its failure, which blocks or does not.
    pub fn new(
        key: impl Into<String>,
        title: impl Into<String>,
        blocking: bool,
        severity: Severity,
    ) -> Self {
        Self {
            key: key.into(),
            title: title.into(),
            blocking,
            severity,
        }
    }

    /// This check, passed.
    pub fn pass(&self, message: impl Into<String>, evidence: Vec<Evidence>) -> Check {
        Check {
            key: self.key.clone(),
            title: self.title.clone(),
            status: CheckStatus::Pass,
            severity: Severity::Info,
            blocking: self.blocking,
            reason_code: None,
            message: message.into(),
            evidence,
            next_steps: Vec::new(),
        }
    }

    /// This check, ended with a reason: fail, warn or skip.
    pub fn reason(
        &self,
        status: CheckStatus,
        reason: Reason,
        links: &LinkContext,
        evidence: Vec<Evidence>,
    ) -> Check {
        self.reason_with(status, reason, reason.steps(), links, evidence)
    }

    /// Creates a failed check with other steps than the reason's own.
    pub fn reason_with(
        &self,
        status: CheckStatus,
        reason: Reason,
        steps: &[(&str, Link)],
        links: &LinkContext,
        evidence: Vec<Evidence>,
    ) -> Check {
        Check {
            key: self.key.clone(),
            title: self.title.clone(),
            status,
            severity: reason.severity(),
            blocking: self.blocking,
            reason_code: Some(reason),
            message: reason.message(),
            next_steps: steps
                .iter()
                .filter_map(|(label, link)| {
                    let mut step = links.step(label, *link);
                    if *link == Link::ErrorCodes {
                        step.url = error_page(steps.len(), links, &evidence)?;
                    }
                    Some(step)
                })
                .collect(),
            evidence,
        }
    }

    /// This check, failed.
    pub fn fail(&self, reason: Reason, links: &LinkContext, evidence: Vec<Evidence>) -> Check {
        self.reason(CheckStatus::Fail, reason, links, evidence)
    }

    /// Creates the check as skipped, because an earlier one failed.
    pub fn skip(&self, links: &LinkContext) -> Check {
        self.reason(CheckStatus::Skip, Reason::NotEvaluated, links, Vec::new())
    }
}

/// The page that explains the error of this evidence; `None` where there is no error to explain and the
/// reason has another step. The reference of sign-in errors lists a part of the codes, the look-up all.
fn error_page(steps: usize, links: &LinkContext, evidence: &[Evidence]) -> Option<String> {
    let has = |kind| evidence.iter().any(|e| e.kind == kind);
    if let Some(code) = aadsts_code(evidence) {
        return Some(links.error_lookup(code));
    }
    if has(EvidenceKind::GraphCode) {
        return Some(links.resolve(Link::GraphErrors));
    }
    let is_needed = has(EvidenceKind::OauthError) || steps == 1;
    is_needed.then(|| links.resolve(Link::ErrorCodes))
}

fn aadsts_code(evidence: &[Evidence]) -> Option<u64> {
    evidence
        .iter()
        .find(|e| e.kind == EvidenceKind::AadstsCode)
        .and_then(|e| e.value.strip_prefix("AADSTS")?.parse().ok())
}

/// A prerequisite that the provider misses in the connection or the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    pub reason: Reason,
    pub evidence: Vec<Evidence>,
}

impl Unmet {
    /// Creates an unmet prerequisite with the path of the member and what is allowed.
    pub fn field(reason: Reason, path: &str, allowed: &str) -> Self {
        Self {
            reason,
            evidence: vec![
                Evidence::new(EvidenceKind::Field, path),
                Evidence::new(EvidenceKind::Expected, allowed),
            ],
        }
    }

    /// The same with what was found, in quotation marks where nobody would see all of it.
    pub fn with_found(mut self, found: &str) -> Self {
        let found = match !found.is_empty() && found.trim() == found {
            true => found.to_owned(),
            false => format!("{found:?}"),
        };
        self.evidence
            .push(Evidence::new(EvidenceKind::Found, found));
        self
    }
}

/// Everything a provider needs for one check.
#[derive(Clone, Debug)]
pub struct Target {
    pub run_id: RunId,
    /// Whether an earlier attempt at the run ended without completing it.
    pub is_repeated: bool,
    pub connection: ProviderConnection,
    pub credential: Credential,
    /// When it was last replaced; what was replaced just now may not be known everywhere yet.
    pub credential_changed_at: Option<chrono::DateTime<chrono::Utc>>,
    pub credential_expiry: RecordedExpiry,
    /// Facts from earlier checks that still apply.
    pub known: ConnectionFacts,
    /// From the run; preflight has made sure that it is a GUID and the connection's.
    pub entra_tenant_id: String,
    /// A known module.
    pub module: String,
    pub links: LinkContext,
    /// When the check must have ended. Retries and waits fit in here.
    pub deadline: Instant,
    /// Sent along so that the provider's logs can be matched.
    pub correlation_id: Uuid,
    /// Where the check records which calls have no result yet.
    pub calls: OpenCalls,
}

/// Whether the run should go on now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The checks are the result.
    Finished,
    /// The provider asks to wait longer than this attempt can: the run is released.
    Later(Duration),
    /// The provider refuses for now without saying for how long: the run is released for at least this time,
    /// and for longer each time.
    Backoff(Duration),
    /// verifyd itself holds the requests of the application back: the run is released until there may be room for them.
    Budget(Duration),
}

/// The result of a provider's check.
#[derive(Clone, Debug)]
pub struct Findings {
    /// One for each of `planned_checks`, in their order.
    pub checks: Vec<Check>,
    /// False as soon as one of the connection's own checks failed: the run ends `failed`. Missing permissions
    /// alone do not count.
    pub healthy: bool,
    /// The granted permissions; `None` when they could not be read (the run ends `failed`).
    pub inventory: Option<InventoryRefresh>,
    pub disposition: Disposition,
    /// Facts found out for later checks and for people.
    pub facts: ConnectionFacts,
}

/// A provider.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// `provider_connections.provider`, e.g. `microsoft`.
    fn key(&self) -> &'static str;

    /// The modules it knows, the default one first.
    fn modules(&self) -> Vec<&str>;

    /// A module that it knows.
    fn module(&self, _key: &str) -> Option<Arc<Module>> {
        None
    }

    /// Reads a module from a file, or returns its problems, one a line.
    fn read_module(&self, _file: &Path) -> Result<Module, Vec<String>> {
        Err(vec![format!("{} knows no modules of files", self.key())])
    }

    /// The permissions that a module needs. Empty for an unknown module.
    fn required_permissions(&self, module: &str) -> &[RequiredPermission];

    /// The checks that it will make for a module, in order. Known without calling anyone, so that
    /// a blocked run's report can show them as skipped. Empty for an unknown module.
    fn planned_checks(&self, module: &str) -> Vec<CheckSpec>;

    /// Base addresses of the connection's cloud, for links; `None` if it is unknown.
    fn link_bases(&self, cloud: Option<&str>) -> Option<LinkBases>;

    /// The cloud that a connection with none is in.
    fn default_cloud(&self) -> String;

    /// Keys of the clouds it knows.
    fn clouds(&self) -> Vec<String>;

    /// Tests the connection and its credential without sending a request.
    fn preflight(
        &self,
        connection: &ProviderConnection,
        credential: &Credential,
    ) -> Result<(), Unmet>;

    /// Calls the provider. Never fails: every error is a finding.
    async fn check(&self, target: &Target) -> Findings;
}

/// The providers of this installation, by key.
#[derive(Clone, Debug, Default)]
pub struct Providers(BTreeMap<&'static str, Arc<dyn Provider>>);

impl Providers {
    /// A registry of these.
    pub fn new(providers: impl IntoIterator<Item = Arc<dyn Provider>>) -> Self {
        Self(providers.into_iter().map(|p| (p.key(), p)).collect())
    }

    /// The provider with this key.
    pub fn get(&self, key: &str) -> Option<&Arc<dyn Provider>> {
        self.0.get(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }

    /// Every module of every provider with the provider's key, the default one of each first.
    pub fn all_modules(&self) -> Vec<(&'static str, Arc<Module>)> {
        let mut modules = Vec::new();
        for (key, provider) in &self.0 {
            let known = provider.modules().into_iter();
            modules.extend(known.filter_map(|module| Some((*key, provider.module(module)?))));
        }
        modules
    }
}
