//! Modules as data: the permissions that each needs, and its probes.
//!
//! The built-in modules are the TOML files of this folder. `satisfied_by` contains only permissions that
//! Microsoft documents as higher privileged for the intended calls.

mod fields;
mod folder;
mod read;
#[cfg(test)]
mod read_tests;
mod rules;
mod schema;

pub(super) use crate::domain::module::{Expect, Module, Probe};
pub use folder::{FolderProblem, read_file};
pub use schema::schema;

use crate::domain::permission::RequiredPermission;
use crate::domain::report::Severity;
use crate::ports::provider::CheckSpec;
use crate::provider::microsoft::embedded;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use uuid::Uuid;

/// `appId` of Microsoft Graph, the same in every cloud.
pub(super) const GRAPH_APP_ID: Uuid = Uuid::from_u128(0x00000003_0000_0000_c000_000000000000);

pub(super) const AUTHENTICATION: &str = "provider.authentication";
pub(super) const IDENTITY: &str = "provider.identity";
pub(super) const SERVICE_PRINCIPAL: &str = "provider.service_principal";
pub(super) const INVENTORY: &str = "permissions.inventory";
pub(super) const EXPIRY: &str = "credential.expiry";
pub(super) const EXCESS: &str = "permissions.excess";

/// Files of the modules that are part of verifyd, the default one first.
const BUILT_IN: [(&str, &str); 3] = [
    ("health_check.toml", include_str!("health_check.toml")),
    ("intune.toml", include_str!("intune.toml")),
    (
        "conditional_access.toml",
        include_str!("conditional_access.toml"),
    ),
];

/// Names that Microsoft gives other APIs that modules often need, by app id.
static RESOURCES: LazyLock<BTreeMap<Uuid, String>> =
    LazyLock::new(|| embedded(include_str!("resources.toml")));

#[expect(
    clippy::expect_used,
    reason = "the files are part of the program; a test reads them"
)]
static BUILT_IN_MODULES: LazyLock<Vec<Arc<Module>>> = LazyLock::new(|| {
    BUILT_IN
        .iter()
        .map(|(name, text)| Arc::new(read::read(text).expect(name)))
        .collect()
});

/// The modules that this installation knows, the default one first.
#[derive(Clone, Debug)]
pub(super) struct Modules(Vec<Arc<Module>>);

impl Modules {
    /// Those that are part of verifyd.
    pub fn built_in() -> Self {
        Self(BUILT_IN_MODULES.clone())
    }

    /// Returns the built-in modules and those of a folder; an empty path means no folder.
    pub fn with_folder(folder: &Path) -> Result<Self, Vec<FolderProblem>> {
        let mut modules = Self::built_in();
        if folder.as_os_str().is_empty() {
            return Ok(modules);
        }
        modules.0.extend(folder::read_folder(folder)?);
        Ok(modules)
    }

    /// The module with this key.
    pub fn get(&self, key: &str) -> Option<&Arc<Module>> {
        self.0.iter().find(|module| module.key == key)
    }

    /// All keys, the default one first.
    pub fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|module| module.key.as_str()).collect()
    }

    /// Permissions that a check itself makes use of, whatever the module.
    pub fn of_verifyd(&self) -> impl Iterator<Item = &RequiredPermission> {
        const OWN: [&str; 2] = ["Organization.Read.All", "Application.Read.All"];
        let health = self.0.first();
        health
            .into_iter()
            .flat_map(|module| &module.permissions)
            .filter(|permission| OWN.contains(&permission.key.as_str()))
    }
}

/// Names of permissions on Graph that amount to control of the directory.
static DIRECTORY_CONTROL: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let by_source: BTreeMap<String, Vec<String>> = embedded(include_str!("directory_control.toml"));
    by_source.into_values().flatten().collect()
});

/// Whether a permission amounts to control of the directory. Those on other APIs have other keys.
pub(super) fn controls_directory(key: &str) -> bool {
    DIRECTORY_CONTROL.contains(key)
}

/// Whether a module of verifyd knows a permission of this name on Graph.
pub(super) fn knows_permission(name: &str) -> bool {
    let mut permissions = BUILT_IN_MODULES.iter().flat_map(|m| &m.permissions);
    permissions.any(|p| p.key == name || p.satisfied_by.iter().any(|other| other == name))
}

/// Returns whether the granted permission includes the wanted one: by the built-in modules, or by its name,
/// as `….ReadWrite.…` of Graph includes `….Read.…`.
pub(super) fn includes(granted: &str, wanted: &str) -> bool {
    let by_module = |permission: &RequiredPermission| {
        permission.key == wanted && permission.satisfied_by.iter().any(|name| name == granted)
    };
    granted == wanted
        || granted.replacen(".ReadWrite.", ".Read.", 1) == wanted
        || BUILT_IN_MODULES
            .iter()
            .flat_map(|m| &m.permissions)
            .any(by_module)
}

/// Keys of the modules that are part of verifyd.
fn built_in_keys() -> BTreeSet<&'static str> {
    BUILT_IN_MODULES.iter().map(|m| m.key.as_str()).collect()
}

/// The checks of a module in their order.
pub(super) fn planned_checks(module: &Module) -> Vec<CheckSpec> {
    let connection = [
        (AUTHENTICATION, "Sign-in"),
        (IDENTITY, "Identity of the directory"),
        (SERVICE_PRINCIPAL, "Service principal"),
        // Without it nothing is known about what works, and the run ends failed.
        (INVENTORY, "Permission inventory"),
    ]
    .map(|(key, title)| CheckSpec::new(key, title, true, Severity::Critical));
    // Not blocking: on the day itself it is the sign-in that fails.
    let expiry = CheckSpec::new(EXPIRY, "Expiry of the credential", false, Severity::Medium);
    let needed = |key: &str, title: &str, blocking: bool| {
        let severity = match blocking {
            true => Severity::Critical,
            false => Severity::High,
        };
        CheckSpec::new(key, title, blocking, severity)
    };
    let permissions = module.permissions.iter().map(|permission| {
        let title = format!("Permission {}", name(permission));
        needed(&check_key(permission), &title, permission.blocking)
    });
    let excess = "Permissions beyond what is needed";
    let excess = CheckSpec::new(EXCESS, excess, false, Severity::Low);
    let probes = module
        .probes
        .iter()
        .map(|probe| needed(&probe.key, &probe.title, probe.blocking));
    connection
        .into_iter()
        .chain([expiry])
        .chain(permissions)
        .chain([excess])
        .chain(probes)
        .collect()
}

/// Name of a resource that is not Graph, for people: Microsoft's, or its app id.
pub(super) fn resource_name(resource: Uuid) -> String {
    let name = RESOURCES.get(&resource);
    name.cloned().unwrap_or_else(|| resource.to_string())
}

/// A permission for people: its role, and the API where that is not Graph.
pub(super) fn name(permission: &RequiredPermission) -> String {
    let role = permission.role();
    match permission.resource {
        Some(resource) => format!("{role} on {}", resource_name(resource)),
        None => role.to_owned(),
    }
}

/// Key of the check of a required permission: `permissions.organization_read_all` for
/// `Organization.Read.All`, and with the app id of the resource before the role where that is not Graph.
pub(super) fn check_key(permission: &RequiredPermission) -> String {
    let role = words(permission.role());
    match permission.resource {
        Some(resource) => {
            let resource = resource.to_string().replace('-', "_");
            format!("permissions.{resource}.{role}")
        }
        None => format!("permissions.{role}"),
    }
}

/// `organization_read_all` for `Organization.Read.All`.
fn words(permission: &str) -> String {
    let mut key = String::new();
    let mut previous: Option<char> = None;
    let mut rest = permission.chars().peekable();
    while let Some(c) = rest.next() {
        if !c.is_ascii_alphanumeric() {
            key.push('_');
        } else {
            let word_starts = c.is_ascii_uppercase()
                && previous.is_some_and(|p| {
                    p.is_ascii_lowercase()
                        || p.is_ascii_digit()
                        || (p.is_ascii_uppercase()
                            && rest.peek().is_some_and(char::is_ascii_lowercase))
                });
            if word_starts {
                key.push('_');
            }
            key.push(c.to_ascii_lowercase());
        }
        previous = Some(c);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_checks_are_dotted_words() {
        for (permission, key) in [
            ("Organization.Read.All", "organization_read_all"),
            (
                "DeviceManagementConfiguration.Read.All",
                "device_management_configuration_read_all",
            ),
            (
                "DeviceManagementRBAC.Read.All",
                "device_management_rbac_read_all",
            ),
            (
                "Policy.ReadWrite.ConditionalAccess",
                "policy_read_write_conditional_access",
            ),
            ("RBACRole.Read", "rbac_role_read"),
            ("full_access-as:app", "full_access_as_app"),
        ] {
            assert_eq!(words(permission), key);
        }
    }

    #[test]
    fn the_check_of_a_role_elsewhere_names_its_resource() {
        let exchange = Uuid::from_u128(0x00000002_0000_0ff1_ce00_000000000000);
        let role = RequiredPermission {
            key: format!("{exchange}/Exchange.ManageAsApp"),
            resource: Some(exchange),
            app_role_id: None,
            blocking: false,
            needed_for: String::new(),
            satisfied_by: Vec::new(),
        };
        assert_eq!(
            check_key(&role),
            "permissions.00000002_0000_0ff1_ce00_000000000000.exchange_manage_as_app"
        );
        assert_eq!(
            name(&role),
            "Exchange.ManageAsApp on Office 365 Exchange Online"
        );
    }

    #[test]
    fn every_module_is_consistent() {
        let built_in = Modules::built_in();
        assert_eq!(
            built_in.keys(),
            ["health_check", "intune", "conditional_access"]
        );
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        for (module, (name, _)) in built_in.0.iter().zip(BUILT_IN) {
            assert_eq!(format!("{}.toml", module.key), name);
            let keys: BTreeSet<String> =
                planned_checks(module).into_iter().map(|c| c.key).collect();
            assert_eq!(keys.len(), planned_checks(module).len(), "{}", module.key);
            for permission in &module.permissions {
                let id = permission.app_role_id.as_deref().unwrap();
                let known = ids.insert(id, &permission.key);
                assert!(known.is_none_or(|k| k == permission.key));
            }
        }
    }

    #[test]
    fn permissions_with_control_of_the_directory_are_known() {
        assert!(controls_directory("RoleManagement.ReadWrite.Directory"));
        assert!(controls_directory("Directory.ReadWrite.All"));
        assert!(!controls_directory("Directory.Read.All"));
        let elsewhere = "00000002-0000-0000-c000-000000000000/Directory.ReadWrite.All";
        assert!(!controls_directory(elsewhere));
        assert!(DIRECTORY_CONTROL.iter().all(|name| rules::is_role(name)));
        assert_eq!(Modules::built_in().of_verifyd().count(), 2);
    }

    #[test]
    fn write_permissions_include_the_read_ones() {
        for permission in Modules::built_in().0.iter().flat_map(|m| &m.permissions) {
            if permission.key.starts_with("DeviceManagement") {
                let write = permission.key.replace(".Read.", ".ReadWrite.");
                assert!(permission.satisfied_by.contains(&write));
            }
        }
    }
}
