//! Modules as data: the permissions that each needs, and what it probes.
//!
//! App role ids are those of Microsoft Graph's own service principal. `satisfied_by` holds only
//! what Microsoft documents as a higher privileged permission for the calls that are meant.

use crate::domain::permission::RequiredPermission;
use crate::domain::report::Severity;
use crate::ports::provider::CheckSpec;

/// `appId` of Microsoft Graph, the same in every cloud.
pub(super) const GRAPH_APP_ID: uuid::Uuid =
    uuid::Uuid::from_u128(0x00000003_0000_0000_c000_000000000000);

pub(super) const AUTHENTICATION: &str = "provider.authentication";
pub(super) const IDENTITY: &str = "provider.identity";
pub(super) const SERVICE_PRINCIPAL: &str = "provider.service_principal";
pub(super) const INVENTORY: &str = "permissions.inventory";

const ORGANIZATION_READ: RequiredPermission = RequiredPermission {
    key: "Organization.Read.All",
    app_role_id: "498476ce-e0fe-48b0-b801-37ba7e2685c6",
    blocking: true,
    needed_for: "it cannot be made sure which directory answers",
    satisfied_by: &[
        "Organization.ReadWrite.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
};
const APPLICATION_READ: RequiredPermission = RequiredPermission {
    key: "Application.Read.All",
    app_role_id: "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
    // The token's own view stands in for the assignments.
    blocking: false,
    needed_for: "the granted permissions can only be read from the token, with a delay",
    satisfied_by: &[
        "Application.ReadWrite.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
};
const DIRECTORY_READ: RequiredPermission = RequiredPermission {
    key: "Directory.Read.All",
    app_role_id: "7ab1d382-f21e-4acd-a863-ba3e13f7da61",
    blocking: false,
    needed_for: "users, groups and roles of the directory cannot be listed",
    satisfied_by: &["Directory.ReadWrite.All"],
};
const USER_READ: RequiredPermission = RequiredPermission {
    key: "User.Read.All",
    app_role_id: "df021288-bdef-4463-88db-98f22de89214",
    blocking: false,
    needed_for: "the tenant's users cannot be read",
    satisfied_by: &[
        "User.ReadWrite.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
};
const GROUP_READ: RequiredPermission = RequiredPermission {
    key: "Group.Read.All",
    app_role_id: "5b567255-7703-4780-807c-7be8301ae99b",
    blocking: false,
    needed_for: "groups and what is assigned to them cannot be read",
    satisfied_by: &[
        "Group.ReadWrite.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
};
const ROLE_MANAGEMENT_READ: RequiredPermission = RequiredPermission {
    key: "RoleManagement.Read.Directory",
    app_role_id: "483bed4a-2ad3-4361-a73b-c83ccdbdc53c",
    blocking: false,
    needed_for: "the directory roles that policies include or exclude cannot be read",
    satisfied_by: &[
        "RoleManagement.ReadWrite.Directory",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
};
const POLICY_READ: RequiredPermission = RequiredPermission {
    key: "Policy.Read.All",
    app_role_id: "246dd0d5-5bd0-4def-940b-0421030a5b68",
    blocking: true,
    needed_for: "no Conditional Access policy can be read",
    satisfied_by: &[],
};
const INTUNE_APPS_READ: RequiredPermission = RequiredPermission {
    key: "DeviceManagementApps.Read.All",
    app_role_id: "7a6ee1e7-141e-4cec-ae74-d9db155731ff",
    blocking: true,
    needed_for: "the state of the Intune service, its apps and app protection policies cannot be read",
    satisfied_by: &["DeviceManagementApps.ReadWrite.All"],
};
const INTUNE_CONFIGURATION_READ: RequiredPermission = RequiredPermission {
    key: "DeviceManagementConfiguration.Read.All",
    app_role_id: "dc377aa6-52d8-4e23-b271-2a7ae04cedf3",
    blocking: true,
    needed_for: "device configurations and compliance policies cannot be read",
    satisfied_by: &["DeviceManagementConfiguration.ReadWrite.All"],
};
const INTUNE_DEVICES_READ: RequiredPermission = RequiredPermission {
    key: "DeviceManagementManagedDevices.Read.All",
    app_role_id: "2f51be20-0bb4-4fed-bf7b-db946066c75e",
    blocking: false,
    needed_for: "managed devices cannot be read",
    satisfied_by: &["DeviceManagementManagedDevices.ReadWrite.All"],
};
const INTUNE_RBAC_READ: RequiredPermission = RequiredPermission {
    key: "DeviceManagementRBAC.Read.All",
    app_role_id: "58ca0d9a-1575-47e1-a3cb-007ef2e4583b",
    blocking: false,
    needed_for: "Intune's role definitions and assignments cannot be read",
    satisfied_by: &["DeviceManagementRBAC.ReadWrite.All"],
};
const INTUNE_SERVICE_READ: RequiredPermission = RequiredPermission {
    key: "DeviceManagementServiceConfig.Read.All",
    app_role_id: "06a5fe6d-c49d-46a7-b082-56b1b14103c7",
    blocking: false,
    needed_for: "enrolment settings and connectors cannot be read",
    satisfied_by: &["DeviceManagementServiceConfig.ReadWrite.All"],
};

/// What a probe looks at in a successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// A member `value` that is a list; its length does not matter.
    List,
    /// A member `subscriptionState` that says `active`.
    ActiveSubscription,
}

/// One call that shows whether a service answers.
#[derive(Debug)]
pub(super) struct Probe {
    pub key: &'static str,
    pub title: &'static str,
    /// Below the Graph base address.
    pub path: &'static str,
    pub query: &'static str,
    /// Key of a required permission of the same module.
    pub permission: &'static str,
    pub blocking: bool,
    pub expect: Expect,
}

/// One module.
#[derive(Debug)]
pub(super) struct Module {
    pub key: &'static str,
    pub permissions: &'static [RequiredPermission],
    pub probes: &'static [Probe],
}

/// All modules, the default one first.
pub(super) static MODULES: &[Module] = &[
    Module {
        key: "health_check",
        permissions: &[ORGANIZATION_READ, APPLICATION_READ, DIRECTORY_READ],
        probes: &[],
    },
    Module {
        key: "intune",
        permissions: &[
            ORGANIZATION_READ,
            APPLICATION_READ,
            GROUP_READ,
            INTUNE_APPS_READ,
            INTUNE_CONFIGURATION_READ,
            INTUNE_DEVICES_READ,
            INTUNE_RBAC_READ,
            INTUNE_SERVICE_READ,
        ],
        probes: &[
            Probe {
                key: "intune.service",
                title: "Intune service",
                path: "/v1.0/deviceManagement",
                query: "$select=subscriptionState",
                permission: INTUNE_APPS_READ.key,
                blocking: true,
                expect: Expect::ActiveSubscription,
            },
            Probe {
                key: "intune.configuration",
                title: "Intune device configurations",
                path: "/v1.0/deviceManagement/deviceConfigurations",
                query: "$top=1&$select=id",
                permission: INTUNE_CONFIGURATION_READ.key,
                blocking: false,
                expect: Expect::List,
            },
            Probe {
                key: "intune.rbac",
                title: "Intune role definitions",
                path: "/v1.0/deviceManagement/roleDefinitions",
                query: "$top=1",
                permission: INTUNE_RBAC_READ.key,
                blocking: false,
                expect: Expect::List,
            },
        ],
    },
    Module {
        key: "conditional_access",
        permissions: &[
            ORGANIZATION_READ,
            APPLICATION_READ,
            POLICY_READ,
            USER_READ,
            GROUP_READ,
            ROLE_MANAGEMENT_READ,
        ],
        probes: &[],
    },
];

/// The module with this key.
pub(super) fn module(key: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.key == key)
}

impl Module {
    /// The checks of this module in their order.
    pub fn planned_checks(&self) -> Vec<CheckSpec> {
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
        let permissions = self.permissions.iter().map(|permission| CheckSpec {
            key: check_key(permission.key),
            title: format!("Permission {}", permission.key),
            blocking: permission.blocking,
            severity: severity(permission.blocking),
        });
        let probes = self.probes.iter().map(|probe| CheckSpec {
            key: probe.key.to_owned(),
            title: probe.title.to_owned(),
            blocking: probe.blocking,
            severity: severity(probe.blocking),
        });
        connection
            .into_iter()
            .chain(permissions)
            .chain(probes)
            .collect()
    }
}

fn severity(blocking: bool) -> Severity {
    if blocking {
        Severity::Critical
    } else {
        Severity::High
    }
}

/// `permissions.organization_read_all` for `Organization.Read.All`.
pub(super) fn check_key(permission: &str) -> String {
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
            assert_eq!(check_key(permission), key);
        }
    }

    #[test]
    fn every_module_is_consistent() {
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        for module in MODULES {
            let keys: BTreeSet<String> =
                module.planned_checks().into_iter().map(|c| c.key).collect();
            assert_eq!(
                keys.len(),
                4 + module.permissions.len() + module.probes.len(),
                "{}",
                module.key
            );
            for permission in module.permissions {
                uuid::Uuid::try_parse(permission.app_role_id).unwrap();
                let known = ids.insert(permission.app_role_id, permission.key);
                assert!(known.is_none_or(|k| k == permission.key));
                assert!(!permission.satisfied_by.contains(&permission.key));
                assert!(!permission.needed_for.ends_with('.'));
            }
            for probe in module.probes {
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
        for permission in MODULES.iter().flat_map(|m| m.permissions) {
            if permission.key.starts_with("DeviceManagement") {
                let write = permission.key.replace(".Read.", ".ReadWrite.");
                assert!(permission.satisfied_by.contains(&write.as_str()));
            }
        }
    }
}
