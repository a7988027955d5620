//! The permission inventory: required and granted permissions, and their comparison.

use super::names::text_enum;
use super::{TenantId, WorkspaceId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

text_enum! {
    /// `tenant_permissions.status`
    pub enum PermissionStatus: "status" {
        Granted => "granted",
        Missing => "missing",
    }
}

text_enum! {
    /// Where the granted permissions were read.
    pub enum InventorySource: "source" {
        /// The service principal's app role assignments.
        AppRoleAssignments => "app_role_assignments",
        /// The `roles` claim of the access token, where the assignments may not be read.
        TokenRoles => "token_roles",
    }
}

/// A permission that a module needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredPermission {
    /// Key in the inventory, `tenant_permissions.permission_key`: the role's name, e.g.
    /// `Organization.Read.All`; `{app id}/{role}` on any resource but the provider's main one.
    pub key: String,
    /// App id of the resource that offers the role; `None` for the provider's main one.
    pub resource: Option<Uuid>,
    /// The app role id on the resource, where it is known without a request.
    pub app_role_id: Option<String>,
    /// Whether the module cannot work at all without it.
    pub blocking: bool,
    /// What the module cannot do without it, as the end of "Without it, …".
    pub needed_for: String,
    /// Keys of permissions that include this one, the least privileged first.
    pub satisfied_by: Vec<String>,
}

impl RequiredPermission {
    /// Returns the role's name on its resource.
    pub fn role(&self) -> &str {
        match self.resource {
            Some(_) => self.key.split_once('/').map_or(&self.key, |(_, role)| role),
            None => &self.key,
        }
    }
}

/// The stored state of one permission. Equal entries are not written again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEntry {
    pub status: PermissionStatus,
    pub details: PermissionDetails,
}

/// `tenant_permissions.details`: stable facts only, so that an unchanged inventory writes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionDetails {
    /// Whether a check of a module needs it.
    #[serde(default)]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_role_id: Option<String>,
    /// The granted permission that includes this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub satisfied_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<InventorySource>,
}

/// Entries by permission key. Checks that read equal entries share one inventory.
#[derive(Debug, Default)]
pub struct Inventory {
    entries: BTreeMap<String, InventoryEntry>,
    digest: OnceLock<String>,
}

impl From<BTreeMap<String, InventoryEntry>> for Inventory {
    fn from(entries: BTreeMap<String, InventoryEntry>) -> Self {
        Self {
            entries,
            digest: OnceLock::new(),
        }
    }
}

impl Deref for Inventory {
    type Target = BTreeMap<String, InventoryEntry>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl PartialEq for Inventory {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Inventory {}

impl Inventory {
    /// Returns the SHA-256, in lowercase hex, of everything that is stored of the entries. It is not computed
    /// from their JSON, which is rarely needed and several times as expensive.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| digest(&self.entries))
    }
}

fn digest(entries: &BTreeMap<String, InventoryEntry>) -> String {
    let mut all = Vec::with_capacity(4 * 1024);
    let mut add = |text: Option<&str>| {
        // The length prefix keeps texts apart.
        all.extend_from_slice(&text.map_or(u64::MAX, |t| t.len() as u64).to_le_bytes());
        all.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    for (key, entry) in entries {
        let InventoryEntry { status, details } = entry;
        let PermissionDetails {
            required,
            app_role_id,
            satisfied_by,
            source,
        } = details;
        add(Some(key));
        add(Some(status.as_str()));
        add(required.then_some("required"));
        add(app_role_id.as_deref());
        add(satisfied_by.as_deref());
        add(source.map(|s| s.as_str()));
    }
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &all))
}

/// The permissions of a tenant that one check read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryRefresh {
    pub workspace_id: Option<WorkspaceId>,
    pub tenant_id: TenantId,
    pub source: InventorySource,
    pub entries: Arc<Inventory>,
}

/// One row of `tenant_permissions` as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredPermission {
    pub tenant_id: TenantId,
    pub permission_key: String,
    pub status: PermissionStatus,
    pub details: serde_json::Value,
    /// When this row last changed. The freshness of the whole inventory is stored once per tenant.
    pub last_checked_at: Option<DateTime<Utc>>,
}

/// Returns the granted permission that satisfies `required`: itself, or one that includes it.
pub fn satisfied_by<'a>(
    required: &RequiredPermission,
    granted: &'a std::collections::BTreeSet<String>,
) -> Option<&'a str> {
    granted
        .get(&required.key)
        .or_else(|| {
            required
                .satisfied_by
                .iter()
                .find_map(|name| granted.get(name))
        })
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_stored_counts_for_the_digest() {
        let entries = |key: &str, status, details: PermissionDetails| {
            BTreeMap::from([(key.to_owned(), InventoryEntry { status, details })])
        };
        let details = |required, role: Option<&str>, by: Option<&str>, source| PermissionDetails {
            required,
            app_role_id: role.map(Into::into),
            satisfied_by: by.map(Into::into),
            source,
        };
        use InventorySource::{AppRoleAssignments, TokenRoles};
        use PermissionStatus::{Granted, Missing};
        let all = [
            entries("a", Granted, details(false, None, None, None)),
            entries("b", Granted, details(false, None, None, None)),
            entries("a", Missing, details(false, None, None, None)),
            entries("a", Granted, details(true, None, None, None)),
            entries("a", Granted, details(false, Some("xy"), None, None)),
            entries("a", Granted, details(false, Some("x"), Some("y"), None)),
            entries("a", Granted, details(false, None, Some("xy"), None)),
            entries("a", Granted, details(false, None, None, Some(TokenRoles))),
            entries(
                "a",
                Granted,
                details(false, None, None, Some(AppRoleAssignments)),
            ),
            BTreeMap::new(),
        ];
        let digests: std::collections::BTreeSet<String> = all.iter().map(digest).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(digest(&all[5]), digest(&all[5].clone()));
    }
}
