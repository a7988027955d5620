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

/// What the name of a person who signs in with OpenID Connect begins with, and that of no other token.
pub const PERSON_PREFIX: &str = "oidc: ";

/// What the value of a claim gives to a person who signs in with OpenID Connect: what a token may have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The value of the claim, compared exactly.
    pub value: String,
    pub scopes: Vec<Scope>,
    #[serde(default)]
    pub workspace: Option<WorkspaceId>,
    #[serde(default)]
    pub tenant: Option<TenantId>,
}

impl Grant {
    fn binding(&self) -> Binding {
        Binding {
            workspace_id: self.workspace,
            tenant_id: self.tenant,
        }
    }
}

/// Why values of a claim give no access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoGrant {
    /// No grant is for any of them.
    Unknown,
    /// Their grants have different bindings: these two, for example.
    Ambiguous(String, String),
    /// None of their grants has the scope read.
    Blind,
}

/// Returns scopes and binding of somebody with these values. The scopes of several grants add up; none extends the
/// binding of another one.
pub fn granted(grants: &[Grant], values: &[String]) -> Result<(Vec<Scope>, Binding), NoGrant> {
    let mut matching = grants.iter().filter(|grant| values.contains(&grant.value));
    let first = matching.next().ok_or(NoGrant::Unknown)?;
    let mut scopes = first.scopes.clone();
    for grant in matching {
        if grant.binding() != first.binding() {
            return Err(NoGrant::Ambiguous(first.value.clone(), grant.value.clone()));
        }
        scopes.extend(&grant.scopes);
    }
    scopes.sort_unstable();
    scopes.dedup();
    match scopes.contains(&Scope::Read) {
        true => Ok((scopes, first.binding())),
        false => Err(NoGrant::Blind),
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
    fn scopes_of_several_grants_add_up_within_one_binding() {
        let grant = |value: &str, scopes: &[Scope], workspace, tenant| Grant {
            value: value.to_owned(),
            scopes: scopes.to_vec(),
            workspace: Some(WorkspaceId(workspace)),
            tenant,
        };
        let two = Some(TenantId(2));
        let grants = [
            grant("readers", &[Scope::Read], 1, two),
            grant("runners", &[Scope::Run, Scope::Read], 1, two),
            grant("starters", &[Scope::Run], 1, two),
            grant("others", &[Scope::Read], 1, None),
        ];
        let given = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            granted(&grants, &values)
        };
        let binding = Binding {
            workspace_id: Some(WorkspaceId(1)),
            tenant_id: two,
        };
        let all = vec![Scope::Read, Scope::Run];
        assert_eq!(given(&["readers"]), Ok((vec![Scope::Read], binding)));
        assert_eq!(
            given(&["x", "starters", "readers"]),
            Ok((all.clone(), binding))
        );
        assert_eq!(given(&["runners", "readers"]), Ok((all, binding)));
        assert_eq!(given(&["starters"]), Err(NoGrant::Blind));
        for nothing in [&[][..], &["Readers"], &["reader"], &[""]] {
            assert_eq!(given(nothing), Err(NoGrant::Unknown), "{nothing:?}");
        }
        let ambiguous = NoGrant::Ambiguous("readers".into(), "others".into());
        assert_eq!(given(&["others", "readers"]), Err(ambiguous));
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
