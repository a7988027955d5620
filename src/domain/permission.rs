//! The permission inventory: what is required, what is granted, how the two compare.

use super::names::text_enum;
use super::{TenantId, WorkspaceId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `tenant_permissions.status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionStatus {
    Granted,
    Missing,
}
text_enum!(PermissionStatus, "status", Granted => "granted", Missing => "missing");

/// Where it was read what is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InventorySource {
    /// The service principal's app role assignments.
    AppRoleAssignments,
    /// The `roles` claim of the access token, where the assignments may not be read.
    TokenRoles,
}
text_enum!(
    InventorySource, "source",
    AppRoleAssignments => "app_role_assignments",
    TokenRoles => "token_roles",
);

/// A permission that a module needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredPermission {
    /// The permission's name, e.g. `Organization.Read.All`; `tenant_permissions.permission_key`.
    pub key: &'static str,
    /// The app role id on the resource.
    pub app_role_id: &'static str,
    /// Without it the module cannot work at all.
    pub blocking: bool,
    /// What the module cannot do without it, as the end of "Without it, …".
    pub needed_for: &'static str,
    /// Names of permissions that include this one.
    pub satisfied_by: &'static [&'static str],
}

/// What is stored of one permission. Equal entries are not written again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEntry {
    pub status: PermissionStatus,
    pub details: PermissionDetails,
}

/// `tenant_permissions.details`: stable facts only, so that "nothing changed" writes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionDetails {
    /// A module's check needs it.
    #[serde(default)]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_role_id: Option<String>,
    /// The granted permission that stands in for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub satisfied_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<InventorySource>,
}

/// What one check read of the tenant's permissions, by permission key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryRefresh {
    pub workspace_id: Option<WorkspaceId>,
    pub tenant_id: TenantId,
    pub source: InventorySource,
    pub entries: BTreeMap<String, InventoryEntry>,
}

/// One row of `tenant_permissions` as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredPermission {
    pub tenant_id: TenantId,
    pub permission_key: String,
    pub status: PermissionStatus,
    pub details: serde_json::Value,
    /// When this row last changed. How fresh the whole inventory is stands in one row per tenant.
    pub last_checked_at: Option<DateTime<Utc>>,
}

/// The granted permission that satisfies `required`: itself, or one that includes it.
pub fn satisfied_by<'a>(
    required: &RequiredPermission,
    granted: &'a std::collections::BTreeSet<String>,
) -> Option<&'a str> {
    granted
        .get(required.key)
        .or_else(|| {
            required
                .satisfied_by
                .iter()
                .find_map(|name| granted.get(*name))
        })
        .map(String::as_str)
}
