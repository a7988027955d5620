//! Microsoft Entra and Microsoft Graph.
//!
//! `settings` → `cloud`, `http` (limits) → `sign_in` (tokens) → `graph` (calls) → `check` (judges the
//! answers). `modules`, `aadsts` and `graph_error` are the data: permissions and probes, and the tables from
//! the provider's errors to reasons.

mod aadsts;
mod assertion;
mod certificate;
mod check;
mod claims;
mod cloud;
mod evidence;
mod fault;
mod graph;
mod graph_error;
mod http;
mod limiter;
mod modules;
mod preflight;
mod settings;
mod sign_in;

pub use modules::schema as module_schema;
pub use settings::{CloudSettings, MicrosoftSettings, MicrosoftSettingsError, Pauses};

use crate::domain::connection::ProviderConnection;
use crate::domain::credential::Credential;
use crate::domain::link::LinkBases;
use crate::domain::module::Module;
use crate::domain::permission::RequiredPermission;
use crate::outbound::Outbound;
use crate::ports::budgets::BudgetStore;
use crate::ports::clock::Clock;
use crate::ports::provider::{CheckSpec, Findings, Provider, Target, Unmet};
use async_trait::async_trait;
use cloud::{Cloud, Clouds};
use graph::Shared;
use http::Caller;
use limiter::Limiters;
use modules::Modules;
use serde::de::DeserializeOwned;
use sign_in::TokenCache;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time for which the secrets of a registration are cached, and the whole registration where another
/// directory owns it.
const APPLICATION_TTL: Duration = Duration::from_secs(15 * 60);

/// Time for which a registration is not read again that another directory owns and that could not be read
/// there.
const UNREADABLE_TTL: Duration = Duration::from_secs(24 * 3600);

/// Applications whose token, and the id of whose service principal, are kept in memory. One more costs a check a
/// round trip.
const KNOWN_APPLICATIONS: u64 = 10_000;

/// Sets of role names, answers that list grants, and registrations that are kept in memory: they are larger than
/// tokens, and many directories share the resources that they name.
const KNOWN_ROLES: u64 = 2_000;

/// How long they are kept: Microsoft adds roles seldom, and the ids of service principals change with a new consent
/// only.
const ROLE_TTL: Duration = Duration::from_secs(60 * 60);

/// A token with less time left is renewed: more than a run's checks usually take.
const TOKEN_REFRESH_MARGIN: Duration = Duration::from_secs(2 * 60);

/// Reads a table that is part of the program; a test reads each.
fn embedded<T: DeserializeOwned>(text: &str) -> T {
    match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => unreachable!("an embedded table cannot be read: {error}"),
    }
}

/// The provider `microsoft`. Holds tokens and role names in memory; `Debug` shows none of them.
#[derive(Debug)]
pub struct MicrosoftProvider {
    clouds: Clouds,
    modules: Modules,
    shared: Shared,
}

impl MicrosoftProvider {
    /// Creates a provider without a proxy. `clock` dates assertions, and decides whether a certificate has
    /// expired and how far a `Retry-After` date is away.
    pub fn new(
        settings: &MicrosoftSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, MicrosoftSettingsError> {
        let outbound = Outbound::direct().map_err(|error| MicrosoftSettingsError {
            field: "clouds".into(),
            problem: error.to_string(),
        })?;
        Self::with_outbound(settings, clock, &outbound)
    }

    /// Creates a provider whose calls go through `outbound`.
    pub fn with_outbound(
        settings: &MicrosoftSettings,
        clock: Arc<dyn Clock>,
        outbound: &Outbound,
    ) -> Result<Self, MicrosoftSettingsError> {
        let clouds = settings.validate()?;
        let modules = Modules::with_folder(&settings.modules_dir).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            MicrosoftSettingsError {
                field: "modules_dir".to_owned(),
                problem: problems.join("\n"),
            }
        })?;
        let shared = Shared {
            caller: Caller::new(settings, &clouds, clock.clone(), outbound),
            limiters: Limiters::new(settings.defer_after()),
            tokens: TokenCache::new(KNOWN_APPLICATIONS, TOKEN_REFRESH_MARGIN),
            roles: graph::cache(KNOWN_ROLES, ROLE_TTL),
            grants: graph::cache(KNOWN_ROLES, ROLE_TTL),
            principals: graph::cache(KNOWN_APPLICATIONS, ROLE_TTL),
            offers: graph::cache(KNOWN_ROLES, ROLE_TTL),
            applications: graph::cache(KNOWN_ROLES, APPLICATION_TTL),
            unreadable: graph::cache(KNOWN_ROLES, UNREADABLE_TTL),
            clock,
        };
        Ok(Self {
            clouds,
            modules,
            shared,
        })
    }

    /// Shares the budgets of throttled applications with the replicas that use this database. Without one no request
    /// is held back.
    #[must_use]
    pub fn with_budgets(mut self, store: Arc<dyn BudgetStore>) -> Self {
        self.shared.limiters.share(store);
        self
    }
}

/// Reads a module from a file; each problem is `file:line: field: problem`.
pub fn read_module_file(file: &Path) -> Result<Module, Vec<String>> {
    modules::read_file(file).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The table of sign-in codes for `docs/reference/reasons.md`.
pub fn sign_in_codes() -> String {
    aadsts::document()
}

#[async_trait]
impl Provider for MicrosoftProvider {
    fn key(&self) -> &'static str {
        "microsoft"
    }

    fn modules(&self) -> Vec<&str> {
        self.modules.keys()
    }

    fn module(&self, key: &str) -> Option<Arc<Module>> {
        self.modules.get(key).cloned()
    }

    fn read_module(&self, file: &Path) -> Result<Module, Vec<String>> {
        read_module_file(file)
    }

    fn required_permissions(&self, module: &str) -> &[RequiredPermission] {
        self.modules
            .get(module)
            .map_or(&[], |module| &module.permissions)
    }

    fn planned_checks(&self, module: &str) -> Vec<CheckSpec> {
        self.modules
            .get(module)
            .map_or_else(Vec::new, |module| modules::planned_checks(module))
    }

    fn link_bases(&self, cloud: Option<&str>) -> Option<LinkBases> {
        self.clouds.get(cloud).map(Cloud::link_bases)
    }

    fn default_cloud(&self) -> String {
        self.clouds.default_key().to_owned()
    }

    fn clouds(&self) -> Vec<String> {
        self.clouds.keys()
    }

    fn preflight(
        &self,
        connection: &ProviderConnection,
        credential: &Credential,
    ) -> Result<(), Unmet> {
        preflight::check(
            &self.clouds,
            self.shared.clock.now(),
            connection,
            credential,
        )
        .map(drop)
    }

    async fn check(&self, target: &Target) -> Findings {
        check::run(&self.shared, &self.clouds, &self.modules, target).await
    }
}
