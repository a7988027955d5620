//! The application permissions of Graph that the simulated directories know.
//! Ids: Microsoft's permissions reference.

/// One application permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppRole {
    pub name: &'static str,
    pub id: &'static str,
}

macro_rules! app_roles {
    ($($constant:ident = $name:literal, $id:literal;)+) => {
        $(pub(crate) const $constant: AppRole = AppRole { name: $name, id: $id };)+
        /// Every permission that the simulated Graph offers.
        pub const OFFERED: &[AppRole] = &[$($constant),+];
    };
}

app_roles! {
    ORGANIZATION_READ = "Organization.Read.All", "498476ce-e0fe-48b0-b801-37ba7e2685c6";
    DIRECTORY_READ = "Directory.Read.All", "7ab1d382-f21e-4acd-a863-ba3e13f7da61";
    APPLICATION_READ = "Application.Read.All", "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30";
    CONFIGURATION_READ = "DeviceManagementConfiguration.Read.All", "dc377aa6-52d8-4e23-b271-2a7ae04cedf3";
    CONFIGURATION_READ_WRITE = "DeviceManagementConfiguration.ReadWrite.All", "9241abd9-d0e6-425a-bd4f-47ba86e767a4";
    APPS_READ = "DeviceManagementApps.Read.All", "7a6ee1e7-141e-4cec-ae74-d9db155731ff";
    APPS_READ_WRITE = "DeviceManagementApps.ReadWrite.All", "78145de6-330d-4800-a6ce-494ff2d33d07";
    MANAGED_DEVICES_READ = "DeviceManagementManagedDevices.Read.All", "2f51be20-0bb4-4fed-bf7b-db946066c75e";
    MANAGED_DEVICES_READ_WRITE = "DeviceManagementManagedDevices.ReadWrite.All", "243333ab-4d21-40cb-a475-36241daa0842";
    MANAGED_DEVICES_PRIVILEGED = "DeviceManagementManagedDevices.PrivilegedOperations.All", "5b07b0dd-2377-4e44-a38d-703f09a0dc3c";
    RBAC_READ = "DeviceManagementRBAC.Read.All", "58ca0d9a-1575-47e1-a3cb-007ef2e4583b";
    RBAC_READ_WRITE = "DeviceManagementRBAC.ReadWrite.All", "e330c4f0-4170-414e-a55a-2f022ec2b57b";
    SERVICE_CONFIG_READ = "DeviceManagementServiceConfig.Read.All", "06a5fe6d-c49d-46a7-b082-56b1b14103c7";
    SERVICE_CONFIG_READ_WRITE = "DeviceManagementServiceConfig.ReadWrite.All", "5ac13192-7ace-4fcf-b828-1a26f28068ee";
    GROUP_READ = "Group.Read.All", "5b567255-7703-4780-807c-7be8301ae99b";
    GROUP_READ_WRITE = "Group.ReadWrite.All", "62a82d76-70ea-41e2-9197-370581804d09";
    POLICY_READ = "Policy.Read.All", "246dd0d5-5bd0-4def-940b-0421030a5b68";
    POLICY_CONDITIONAL_ACCESS_READ_WRITE = "Policy.ReadWrite.ConditionalAccess", "01c0a623-fc9b-48e9-b794-0756f8e8f067";
    USER_READ = "User.Read.All", "df021288-bdef-4463-88db-98f22de89214";
    ROLE_MANAGEMENT_READ = "RoleManagement.Read.Directory", "483bed4a-2ad3-4361-a73b-c83ccdbdc53c";
}

/// Every permission that only reads.
pub(crate) const ALL_READ: &[AppRole] = &[
    ORGANIZATION_READ,
    DIRECTORY_READ,
    APPLICATION_READ,
    CONFIGURATION_READ,
    APPS_READ,
    MANAGED_DEVICES_READ,
    RBAC_READ,
    SERVICE_CONFIG_READ,
    GROUP_READ,
    POLICY_READ,
    USER_READ,
    ROLE_MANAGEMENT_READ,
];

/// The writing permission wherever there is one that includes a reading one, which is then absent.
pub(crate) const READ_WRITE: &[AppRole] = &[
    ORGANIZATION_READ,
    DIRECTORY_READ,
    APPLICATION_READ,
    CONFIGURATION_READ_WRITE,
    APPS_READ_WRITE,
    MANAGED_DEVICES_READ_WRITE,
    MANAGED_DEVICES_PRIVILEGED,
    RBAC_READ_WRITE,
    SERVICE_CONFIG_READ_WRITE,
    GROUP_READ_WRITE,
    POLICY_READ,
    POLICY_CONDITIONAL_ACCESS_READ_WRITE,
    USER_READ,
    ROLE_MANAGEMENT_READ,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_twenty_permissions_have_ids_of_their_own() {
        let ids: BTreeSet<_> = OFFERED.iter().map(|role| role.id).collect();
        let names: BTreeSet<_> = OFFERED.iter().map(|role| role.name).collect();
        assert_eq!((ids.len(), names.len(), OFFERED.len()), (20, 20, 20));
        for role in OFFERED {
            assert!(uuid::Uuid::parse_str(role.id).is_ok(), "{}", role.name);
        }
    }

    #[test]
    fn healthy_tenants_grant_every_permission_that_only_reads() {
        let reading: BTreeSet<_> = OFFERED
            .iter()
            .map(|role| role.name)
            .filter(|name| name.contains(".Read."))
            .collect();
        assert_eq!(reading, ALL_READ.iter().map(|role| role.name).collect());
    }
}
