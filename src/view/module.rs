//! A module, as every surface shows it.

use crate::domain::module::{Expect, Module, Probe};
use crate::domain::permission::RequiredPermission;
use serde::Serialize;

/// A module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleView {
    pub key: String,
    pub title: String,
    pub provider: String,
    /// The file that it was read from; null for a module of verifyd itself.
    pub file: Option<String>,
    /// `info` or `warn`.
    pub excess: &'static str,
    pub permissions: Vec<PermissionView>,
    pub probes: Vec<ProbeView>,
}

/// A permission that a module needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionView {
    pub role: String,
    /// App id of the API that offers it; null for the provider's main one.
    pub resource: Option<String>,
    pub app_role_id: Option<String>,
    pub blocking: bool,
    pub needed_for: String,
    /// Roles of the same API that include it.
    pub satisfied_by: Vec<String>,
}

/// A call that a module makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeView {
    pub key: String,
    pub title: String,
    /// Path and query.
    pub request: String,
    pub permission: String,
    pub blocking: bool,
    /// In words.
    pub expects: String,
}

impl ModuleView {
    /// Of a provider's module.
    pub fn of(provider: &str, module: &Module) -> Self {
        Self {
            key: module.key.clone(),
            title: module.title.clone(),
            provider: provider.to_owned(),
            file: module.file.clone(),
            excess: module.excess.as_str(),
            permissions: module.permissions.iter().map(Into::into).collect(),
            probes: module.probes.iter().map(Into::into).collect(),
        }
    }
}

impl From<&RequiredPermission> for PermissionView {
    fn from(permission: &RequiredPermission) -> Self {
        let role = |key: &String| match permission.resource {
            Some(_) => key
                .split_once('/')
                .map_or(key.as_str(), |(_, role)| role)
                .to_owned(),
            None => key.clone(),
        };
        Self {
            role: permission.role().to_owned(),
            resource: permission.resource.map(|id| id.to_string()),
            app_role_id: permission.app_role_id.clone(),
            blocking: permission.blocking,
            needed_for: permission.needed_for.clone(),
            satisfied_by: permission.satisfied_by.iter().map(role).collect(),
        }
    }
}

impl From<&Probe> for ProbeView {
    fn from(probe: &Probe) -> Self {
        let request = match probe.query.as_str() {
            "" => probe.path.clone(),
            query => format!("{}?{query}", probe.path),
        };
        Self {
            key: probe.key.clone(),
            title: probe.title.clone(),
            request,
            permission: probe.permission.clone(),
            blocking: probe.blocking,
            expects: expects(&probe.expect),
        }
    }
}

fn expects(expect: &Expect) -> String {
    match expect {
        Expect::Object => "an object".to_owned(),
        Expect::List => "a list".to_owned(),
        Expect::NotEmpty => "a list with at least one item".to_owned(),
        Expect::Member {
            name,
            one_of,
            tolerated,
        } => {
            let warns = match tolerated.as_slice() {
                [] => String::new(),
                values => format!(" (warns: {})", values.join(", ")),
            };
            format!("{name} = {}{warns}", one_of.join(" or "))
        }
    }
}
