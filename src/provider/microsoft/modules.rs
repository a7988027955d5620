//! Modules as data: the permissions that each needs, and what it probes.
//!
//! App role ids are those of Microsoft Graph's own service principal. `satisfied_by` holds only
//! what Microsoft documents as a higher privileged permission for the calls that are meant.

use crate::domain::Reason;
use crate::domain::permission::RequiredPermission;
use crate::domain::report::Severity;
use crate::ports::provider::CheckSpec;
use std::sync::Arc;

pub(super) use crate::domain::module::{Expect, Module, Probe};

/// `appId` of Microsoft Graph, the same in every cloud.
pub(super) const GRAPH_APP_ID: uuid::Uuid =
    uuid::Uuid::from_u128(0x00000003_0000_0000_c000_000000000000);

pub(super) const AUTHENTICATION: &str = "provider.authentication";
pub(super) const IDENTITY: &str = "provider.identity";
pub(super) const SERVICE_PRINCIPAL: &str = "provider.service_principal";
pub(super) const INVENTORY: &str = "permissions.inventory";
pub(super) const EXPIRY: &str = "credential.expiry";

fn organization_read() -> RequiredPermission {
    RequiredPermission {
        key: "Organization.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("498476ce-e0fe-48b0-b801-37ba7e2685c6".to_owned()),
        blocking: true,
        needed_for: "it cannot be made sure which directory answers".to_owned(),
        satisfied_by: owned(&[
            "Organization.ReadWrite.All",
            "Directory.Read.All",
            "Directory.ReadWrite.All",
        ]),
    }
}
fn application_read() -> RequiredPermission {
    RequiredPermission {
        key: "Application.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30".to_owned()),
        // The token's own view stands in for the assignments.
        blocking: false,
        needed_for: "the granted permissions can only be read from the token, with a delay"
            .to_owned(),
        satisfied_by: owned(&[
            "Application.ReadWrite.All",
            "Directory.Read.All",
            "Directory.ReadWrite.All",
        ]),
    }
}
fn directory_read() -> RequiredPermission {
    RequiredPermission {
        key: "Directory.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("7ab1d382-f21e-4acd-a863-ba3e13f7da61".to_owned()),
        blocking: false,
        needed_for: "users, groups and roles of the directory cannot be listed".to_owned(),
        satisfied_by: owned(&["Directory.ReadWrite.All"]),
    }
}
fn user_read() -> RequiredPermission {
    RequiredPermission {
        key: "User.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("df021288-bdef-4463-88db-98f22de89214".to_owned()),
        blocking: false,
        needed_for: "the tenant's users cannot be read".to_owned(),
        satisfied_by: owned(&[
            "User.ReadWrite.All",
            "Directory.Read.All",
            "Directory.ReadWrite.All",
        ]),
    }
}
fn group_read() -> RequiredPermission {
    RequiredPermission {
        key: "Group.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("5b567255-7703-4780-807c-7be8301ae99b".to_owned()),
        blocking: false,
        needed_for: "groups and what is assigned to them cannot be read".to_owned(),
        satisfied_by: owned(&[
            "Group.ReadWrite.All",
            "Directory.Read.All",
            "Directory.ReadWrite.All",
        ]),
    }
}
fn role_management_read() -> RequiredPermission {
    RequiredPermission {
        key: "RoleManagement.Read.Directory".to_owned(),
        resource: None,
        app_role_id: Some("483bed4a-2ad3-4361-a73b-c83ccdbdc53c".to_owned()),
        blocking: false,
        needed_for: "the directory roles that policies include or exclude cannot be read"
            .to_owned(),
        satisfied_by: owned(&[
            "RoleManagement.ReadWrite.Directory",
            "Directory.Read.All",
            "Directory.ReadWrite.All",
        ]),
    }
}
fn policy_read() -> RequiredPermission {
    RequiredPermission {
        key: "Policy.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("246dd0d5-5bd0-4def-940b-0421030a5b68".to_owned()),
        blocking: true,
        needed_for: "no Conditional Access policy can be read".to_owned(),
        satisfied_by: owned(&[]),
    }
}
fn intune_apps_read() -> RequiredPermission {
    RequiredPermission {
        key: "DeviceManagementApps.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("7a6ee1e7-141e-4cec-ae74-d9db155731ff".to_owned()),
        blocking: true,
        needed_for:
            "the state of the Intune service, its apps and app protection policies cannot be read"
                .to_owned(),
        satisfied_by: owned(&["DeviceManagementApps.ReadWrite.All"]),
    }
}
fn intune_configuration_read() -> RequiredPermission {
    RequiredPermission {
        key: "DeviceManagementConfiguration.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("dc377aa6-52d8-4e23-b271-2a7ae04cedf3".to_owned()),
        blocking: true,
        needed_for: "device configurations and compliance policies cannot be read".to_owned(),
        satisfied_by: owned(&["DeviceManagementConfiguration.ReadWrite.All"]),
    }
}
fn intune_devices_read() -> RequiredPermission {
    RequiredPermission {
        key: "DeviceManagementManagedDevices.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("2f51be20-0bb4-4fed-bf7b-db946066c75e".to_owned()),
        blocking: false,
        needed_for: "managed devices cannot be read".to_owned(),
        satisfied_by: owned(&["DeviceManagementManagedDevices.ReadWrite.All"]),
    }
}
fn intune_rbac_read() -> RequiredPermission {
    RequiredPermission {
        key: "DeviceManagementRBAC.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("58ca0d9a-1575-47e1-a3cb-007ef2e4583b".to_owned()),
        blocking: false,
        needed_for: "Intune's role definitions and assignments cannot be read".to_owned(),
        satisfied_by: owned(&["DeviceManagementRBAC.ReadWrite.All"]),
    }
}
fn intune_service_read() -> RequiredPermission {
    RequiredPermission {
        key: "DeviceManagementServiceConfig.Read.All".to_owned(),
        resource: None,
        app_role_id: Some("06a5fe6d-c49d-46a7-b082-56b1b14103c7".to_owned()),
        blocking: false,
        needed_for: "enrolment settings and connectors cannot be read".to_owned(),
        satisfied_by: owned(&["DeviceManagementServiceConfig.ReadWrite.All"]),
    }
}

/// All modules, the default one first.
fn built_in() -> Vec<Module> {
    vec![
        Module {
            key: "health_check".to_owned(),
            title: "health_check".to_owned(),
            permissions: vec![organization_read(), application_read(), directory_read()],
            probes: vec![],
        },
        Module {
            key: "intune".to_owned(),
            title: "intune".to_owned(),
            permissions: vec![
                organization_read(),
                application_read(),
                group_read(),
                intune_apps_read(),
                intune_configuration_read(),
                intune_devices_read(),
                intune_rbac_read(),
                intune_service_read(),
            ],
            probes: vec![
                Probe {
                    key: "intune.service".to_owned(),
                    title: "Intune service".to_owned(),
                    path: "/v1.0/deviceManagement".to_owned(),
                    query: "$select=subscriptionState".to_owned(),
                    permission: intune_apps_read().key,
                    blocking: true,
                    expect: Expect::Member {
                        name: "subscriptionState".to_owned(),
                        one_of: owned(&["active"]),
                        tolerated: owned(&["warning"]),
                    },
                    reason: Reason::IntuneInactive,
                },
                Probe {
                    key: "intune.configuration".to_owned(),
                    title: "Intune device configurations".to_owned(),
                    path: "/v1.0/deviceManagement/deviceConfigurations".to_owned(),
                    query: "$top=1&$select=id".to_owned(),
                    permission: intune_configuration_read().key,
                    blocking: false,
                    expect: Expect::List,
                    reason: Reason::ResponseInvalid,
                },
                Probe {
                    key: "intune.rbac".to_owned(),
                    title: "Intune role definitions".to_owned(),
                    path: "/v1.0/deviceManagement/roleDefinitions".to_owned(),
                    query: "$top=1".to_owned(),
                    permission: intune_rbac_read().key,
                    blocking: false,
                    expect: Expect::List,
                    reason: Reason::ResponseInvalid,
                },
            ],
        },
        Module {
            key: "conditional_access".to_owned(),
            title: "conditional_access".to_owned(),
            permissions: vec![
                organization_read(),
                application_read(),
                policy_read(),
                user_read(),
                group_read(),
                role_management_read(),
            ],
            probes: vec![],
        },
    ]
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The modules that this installation knows, the default one first.
#[derive(Clone, Debug)]
pub(super) struct Modules(Vec<Arc<Module>>);

impl Modules {
    /// Those that are part of verifyd.
    pub fn built_in() -> Self {
        Self(built_in().into_iter().map(Arc::new).collect())
    }

    /// The module with this key.
    pub fn get(&self, key: &str) -> Option<&Arc<Module>> {
        self.0.iter().find(|module| module.key == key)
    }

    /// All keys, the default one first.
    pub fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|module| module.key.as_str()).collect()
    }
}

/// The checks of a module in their order.
pub(super) fn planned_checks(module: &Module) -> Vec<CheckSpec> {
    let connection = [
        (AUTHENTICATION, "Sign-in"),
        (IDENTITY, "Identity of the directory"),
        (SERVICE_PRINCIPAL, "Service principal"),
        // Without it nothing can be said of what works, and the run ends failed.
        (INVENTORY, "Permission inventory"),
    ]
    .map(|(key, title)| CheckSpec {
        key: key.to_owned(),
        title: title.to_owned(),
        blocking: true,
        severity: Severity::Critical,
    });
    let expiry = CheckSpec {
        key: EXPIRY.to_owned(),
        title: "Expiry of the credential".to_owned(),
        // On the day itself it is the sign-in that fails.
        blocking: false,
        severity: Severity::Medium,
    };
    let permissions = module.permissions.iter().map(|permission| CheckSpec {
        key: check_key(permission),
        title: format!("Permission {}", permission.key),
        blocking: permission.blocking,
        severity: severity(permission.blocking),
    });
    let probes = module.probes.iter().map(|probe| CheckSpec {
        key: probe.key.clone(),
        title: probe.title.clone(),
        blocking: probe.blocking,
        severity: severity(probe.blocking),
    });
    connection
        .into_iter()
        .chain([expiry])
        .chain(permissions)
        .chain(probes)
        .collect()
}

fn severity(blocking: bool) -> Severity {
    if blocking {
        Severity::Critical
    } else {
        Severity::High
    }
}

/// Key of the check of a required permission.
pub(super) fn check_key(permission: &RequiredPermission) -> String {
    key_of(permission.role())
}

/// `permissions.organization_read_all` for `Organization.Read.All`.
fn key_of(permission: &str) -> String {
    let mut key = String::from("permissions.");
    let mut previous: Option<char> = None;
    let mut rest = permission.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '.' {
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
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn keys_of_checks_are_dotted_words() {
        for (permission, key) in [
            ("Organization.Read.All", "permissions.organization_read_all"),
            (
                "DeviceManagementConfiguration.Read.All",
                "permissions.device_management_configuration_read_all",
            ),
            (
                "DeviceManagementRBAC.Read.All",
                "permissions.device_management_rbac_read_all",
            ),
            (
                "Policy.ReadWrite.ConditionalAccess",
                "permissions.policy_read_write_conditional_access",
            ),
            ("RBACRole.Read", "permissions.rbac_role_read"),
        ] {
            assert_eq!(key_of(permission), key);
        }
    }

    #[test]
    fn every_module_is_consistent() {
        let built_in = Modules::built_in();
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        for module in &built_in.0 {
            let keys: BTreeSet<String> =
                planned_checks(module).into_iter().map(|c| c.key).collect();
            assert_eq!(
                keys.len(),
                5 + module.permissions.len() + module.probes.len(),
                "{}",
                module.key
            );
            for permission in &module.permissions {
                let id = permission.app_role_id.as_deref().unwrap();
                uuid::Uuid::try_parse(id).unwrap();
                let known = ids.insert(id, &permission.key);
                assert!(known.is_none_or(|k| k == permission.key));
                assert!(!permission.satisfied_by.contains(&permission.key));
                assert!(!permission.needed_for.ends_with('.'));
            }
            for probe in &module.probes {
                assert!(
                    module.permissions.iter().any(|p| p.key == probe.permission),
                    "{}",
                    probe.key
                );
            }
        }
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
