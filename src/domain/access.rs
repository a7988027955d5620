//! Scopes of a token, and the workspace or tenant that it is bound to.

use super::ids::{TenantId, WorkspaceId};
use super::names::text_enum;
use serde::{Deserialize, Serialize};

text_enum! {
    /// What a token allows. No scope includes another one.
    pub enum Scope: "scope" {
        /// Read runs, reports, connections and acknowledgements.
        Read => "read",
        /// Start checks, acknowledge, withdraw.
        Run => "run",
        /// See workers and problems of the installation.
        Admin => "admin",
        /// Read the audit trail of what the token reaches.
        Audit => "audit",
    }
}

/// What a token is bound to. With neither set it reaches every workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binding {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
}

impl Binding {
    /// A binding to nothing, which reaches everything.
    pub const EVERYTHING: Self = Self {
        workspace_id: None,
        tenant_id: None,
    };

    /// Returns whether a row of this workspace and tenant is within reach. A row without a tenant (a platform
    /// run) is out of reach of a token that is bound to one.
    pub fn admits(&self, workspace: Option<WorkspaceId>, tenant: Option<TenantId>) -> bool {
        (self.workspace_id.is_none() || self.workspace_id == workspace)
            && (self.tenant_id.is_none() || self.tenant_id == tenant)
    }
}

/// Returns scopes as the database stores them: their names, sorted, separated by commas.
pub fn join_scopes(scopes: &[Scope]) -> String {
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    let names: Vec<&str> = scopes.into_iter().map(Scope::as_str).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_admits_its_own_only() {
        let (one, two) = (Some(WorkspaceId(1)), Some(WorkspaceId(2)));
        let (red, blue) = (Some(TenantId(10)), Some(TenantId(20)));
        let bound = |workspace_id, tenant_id| Binding {
            workspace_id,
            tenant_id,
        };
        assert!(Binding::EVERYTHING.admits(one, None));
        assert!(bound(one, None).admits(one, blue));
        assert!(bound(one, None).admits(one, None));
        assert!(!bound(one, None).admits(two, red));
        assert!(!bound(one, None).admits(None, red));
        assert!(bound(one, red).admits(one, red));
        assert!(!bound(one, red).admits(one, blue));
        assert!(!bound(one, red).admits(two, red));
        assert!(!bound(one, red).admits(one, None));
    }

    #[test]
    fn scopes_are_joined_once_and_in_order() {
        assert_eq!(
            join_scopes(&[Scope::Run, Scope::Read, Scope::Run]),
            "read,run"
        );
        assert_eq!(join_scopes(&[]), "");
    }
}
