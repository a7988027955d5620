//! Microsoft Entra and Microsoft Graph.
//!
//! `settings` → `cloud`, `http` (limits) → `sign_in` (tokens) → `graph` (calls) → `check` (what the
//! answers mean). `modules`, `aadsts` and `graph_error` are the data: permissions and probes, and
//! the tables from the provider's errors to reasons.

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
mod modules;
mod preflight;
mod settings;
mod sign_in;

pub use settings::{CloudSettings, MicrosoftSettings, MicrosoftSettingsError};

use crate::domain::Reason;
use crate::domain::connection::ProviderConnection;
use crate::domain::credential::Credential;
use crate::domain::permission::RequiredPermission;
use crate::outbound::Outbound;
use crate::ports::clock::Clock;
use crate::ports::provider::{CheckSpec, Findings, Provider, Target, Unmet};
use async_trait::async_trait;
use cloud::{Cloud, Clouds};
use graph::Shared;
use http::Caller;
use modules::{MODULES, Module};
use sign_in::TokenCache;
use std::sync::Arc;

/// The provider `microsoft`. Holds tokens and role names in memory; `Debug` shows none of them.
#[derive(Debug)]
pub struct MicrosoftProvider {
    clouds: Clouds,
    shared: Shared,
}

impl MicrosoftProvider {
    /// A provider with these settings that uses no proxy. `clock` dates assertions, and tells whether
    /// a certificate has expired and how long a `Retry-After` date is away.
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

    /// The same, with calls that leave as `outbound` says.
    pub fn with_outbound(
        settings: &MicrosoftSettings,
        clock: Arc<dyn Clock>,
        outbound: &Outbound,
    ) -> Result<Self, MicrosoftSettingsError> {
        let clouds = settings.validate()?;
        let shared = Shared {
            caller: Caller::new(settings, &clouds, clock.clone(), outbound),
            tokens: TokenCache::new(settings.token_cache_entries, settings.token_refresh_margin),
            roles: graph::cache(settings.role_cache_entries, settings.role_cache_ttl),
            grants: graph::cache(settings.role_cache_entries, settings.role_cache_ttl),
            principals: graph::cache(settings.token_cache_entries, settings.role_cache_ttl),
            clock,
            max_pages: settings.max_pages,
            max_resources: settings.max_resources,
        };
        Ok(Self { clouds, shared })
    }
}

/// What an answer of the token endpoint means whose status is not success.
pub fn token_error_reason(status: u16, body: &[u8]) -> Reason {
    aadsts::fault(status, serde_json::from_slice(body).ok().as_ref(), None).reason
}

/// What an answer of Graph means whose status is not success.
pub fn graph_error_reason(status: u16, body: &[u8]) -> Reason {
    graph_error::fault(status, serde_json::from_slice(body).ok().as_ref(), None).reason
}

#[async_trait]
impl Provider for MicrosoftProvider {
    fn key(&self) -> &'static str {
        "microsoft"
    }

    fn modules(&self) -> Vec<&'static str> {
        MODULES.iter().map(|module| module.key).collect()
    }

    fn required_permissions(&self, module: &str) -> &'static [RequiredPermission] {
        modules::module(module).map_or(&[], |module| module.permissions)
    }

    fn planned_checks(&self, module: &str) -> Vec<CheckSpec> {
        modules::module(module).map_or_else(Vec::new, Module::planned_checks)
    }

    fn link_bases(&self, cloud: Option<&str>) -> Option<(String, String)> {
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
        check::run(&self.shared, &self.clouds, target).await
    }
}
