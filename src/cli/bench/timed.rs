//! How long runs wait for the provider.

use crate::domain::connection::ProviderConnection;
use crate::domain::credential::Credential;
use crate::domain::link::LinkBases;
use crate::domain::module::Module;
use crate::domain::permission::RequiredPermission;
use crate::ports::provider::{CheckSpec, Findings, Provider, Target, Unmet};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// A provider whose checks are timed.
#[derive(Debug)]
pub struct Timed {
    inner: Arc<dyn Provider>,
    microseconds: AtomicU64,
}

impl Timed {
    pub fn new(inner: Arc<dyn Provider>) -> Self {
        Self {
            inner,
            microseconds: AtomicU64::new(0),
        }
    }

    /// All checks so far, together.
    pub fn seconds(&self) -> f64 {
        self.microseconds.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[async_trait]
impl Provider for Timed {
    fn key(&self) -> &'static str {
        self.inner.key()
    }

    fn modules(&self) -> Vec<&str> {
        self.inner.modules()
    }

    fn module(&self, key: &str) -> Option<Arc<Module>> {
        self.inner.module(key)
    }

    fn read_module(&self, file: &Path) -> Result<Module, Vec<String>> {
        self.inner.read_module(file)
    }

    fn required_permissions(&self, module: &str) -> &[RequiredPermission] {
        self.inner.required_permissions(module)
    }

    fn planned_checks(&self, module: &str) -> Vec<CheckSpec> {
        self.inner.planned_checks(module)
    }

    fn link_bases(&self, cloud: Option<&str>) -> Option<LinkBases> {
        self.inner.link_bases(cloud)
    }

    fn default_cloud(&self) -> String {
        self.inner.default_cloud()
    }

    fn clouds(&self) -> Vec<String> {
        self.inner.clouds()
    }

    fn preflight(
        &self,
        connection: &ProviderConnection,
        credential: &Credential,
    ) -> Result<(), Unmet> {
        self.inner.preflight(connection, credential)
    }

    async fn check(&self, target: &Target) -> Findings {
        let began = Instant::now();
        let findings = self.inner.check(target).await;
        let spent = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(spent, Ordering::Relaxed);
        findings
    }
}
