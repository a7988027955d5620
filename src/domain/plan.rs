//! Plans: what a module would mean for connections, computed from their stored inventories.

use super::connection::ProviderConnection;
use super::connection_facts::ConnectionFacts;
use super::link::Link;
use super::module::Module;
use super::names::text_enum;
use super::permission::{self, InventorySource, RequiredPermission};
use super::report::Overall;
use super::{ConnectionId, TenantId, WorkspaceId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::BTreeSet;

/// The stored inventory of a tenant, as far as a module needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredGrants {
    pub read_at: Option<DateTime<Utc>>,
    /// `None` where another writer stored an unknown value.
    pub source: Option<InventorySource>,
    /// The connection whose run read it; `None` when that run was deleted.
    pub read_by: Option<ConnectionId>,
    /// Granted keys among those that the plan needs.
    pub granted: BTreeSet<String>,
}

impl StoredGrants {
    /// Returns whether it says something about this connection. What another one read, which may lead to another
    /// directory, does not.
    pub fn counts_for(&self, connection: ConnectionId) -> bool {
        self.read_by.is_none_or(|reader| reader == connection)
    }
}

/// A connection with the inventory of its tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanSubject {
    pub connection: ProviderConnection,
    /// Facts that checks have found out about it.
    pub known: ConnectionFacts,
    /// `None` when no inventory was ever read.
    pub grants: Option<StoredGrants>,
}

text_enum! {
    /// The verdict of a plan for one connection.
    pub enum Verdict: "verdict" {
        /// Every required permission is granted.
        Works => "works",
        /// A required permission is missing.
        Breaks => "breaks",
        /// The stored data is not sufficient.
        Unknown => "unknown",
    }
}

/// Why the stored data is not sufficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// No check of the connection has read an inventory.
    NeverRead,
    /// The tenant's inventory was read through another connection, which may use another application.
    ReadByAnotherConnection,
    /// It was read from a token, which names permissions on the provider's main API only.
    OtherApisNotRead,
}

impl Unknown {
    /// Returns the reason in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NeverRead => "no inventory was read yet",
            Self::ReadByAnotherConnection => {
                "the tenant's inventory was read through another connection"
            }
            Self::OtherApisNotRead => {
                "the inventory was read from a token, which does not tell of other APIs"
            }
        }
    }
}

/// A required permission that is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingPermission {
    /// Key in the inventory.
    pub permission: String,
    pub blocking: bool,
    pub needed_for: String,
}

/// A required permission that another one includes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Substitute {
    pub permission: String,
    pub by: String,
}

/// What a module would mean for one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanLine {
    pub connection_id: ConnectionId,
    pub workspace_id: WorkspaceId,
    pub tenant_id: TenantId,
    pub display_name: Option<String>,
    /// Name of the directory.
    pub entra_tenant_name: Option<String>,
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
    pub cloud: Option<String>,
    pub verdict: Verdict,
    /// The overall result of a report that depended on permissions alone; `None` where that is unknown.
    pub overall: Option<Overall>,
    pub missing: Vec<MissingPermission>,
    /// Granted permissions that include required ones.
    pub satisfied_by: Vec<Substitute>,
    pub unknown: Option<Unknown>,
    /// Required permissions whose state is unknown.
    pub unknown_permissions: Vec<String>,
    pub inventory_read_at: Option<DateTime<Utc>>,
    /// Where missing permissions are added to the registration, since consent grants only what it requests.
    /// Only with the verdict `breaks`, like the next member.
    pub registration_url: Option<String>,
    /// Where an administrator of the directory consents.
    pub consent_url: Option<String>,
}

impl PlanLine {
    /// Returns the name that people know it by: its own, or else the directory's.
    pub fn name(&self) -> Option<&str> {
        let names = [&self.display_name, &self.entra_tenant_name];
        let mut names = names.into_iter().filter_map(|name| name.as_deref());
        names.find(|name| !name.trim().is_empty())
    }

    /// Compares a module with stored inventories. `link` resolves a link of the connection.
    pub fn of(module: &Module, subject: PlanSubject, link: impl Fn(Link) -> String) -> Self {
        let PlanSubject {
            connection,
            known,
            grants,
        } = subject;
        let own = grants
            .as_ref()
            .filter(|grants| grants.counts_for(connection.id));
        let mut missing = Vec::new();
        let mut satisfied_by = Vec::new();
        let mut unknown_permissions = Vec::new();
        for permission in &module.permissions {
            let Some(grants) = own.filter(|grants| tells(grants, permission)) else {
                unknown_permissions.push(permission.key.clone());
                continue;
            };
            match permission::satisfied_by(permission, &grants.granted) {
                Some(by) if by == permission.key => {}
                Some(by) => satisfied_by.push(Substitute {
                    permission: permission.key.clone(),
                    by: by.to_owned(),
                }),
                None => missing.push(MissingPermission {
                    permission: permission.key.clone(),
                    blocking: permission.blocking,
                    needed_for: permission.needed_for.clone(),
                }),
            }
        }
        let verdict = match (missing.is_empty(), unknown_permissions.is_empty()) {
            (false, _) => Verdict::Breaks,
            (true, false) => Verdict::Unknown,
            (true, true) => Verdict::Works,
        };
        let overall = match verdict {
            Verdict::Works => Some(Overall::Ready),
            Verdict::Breaks if missing.iter().any(|m| m.blocking) => Some(Overall::Blocked),
            Verdict::Breaks => Some(Overall::NeedsAttention),
            Verdict::Unknown => None,
        };
        let unknown = (!unknown_permissions.is_empty()).then_some(match (&grants, own) {
            (None, _) => Unknown::NeverRead,
            (Some(_), None) => Unknown::ReadByAnotherConnection,
            (Some(_), Some(_)) => Unknown::OtherApisNotRead,
        });
        let breaks = verdict == Verdict::Breaks;
        Self {
            connection_id: connection.id,
            workspace_id: connection.workspace_id,
            tenant_id: connection.tenant_id,
            display_name: connection.display_name,
            entra_tenant_name: known.entra_tenant_name,
            entra_tenant_id: connection.entra_tenant_id,
            client_id: connection.client_id,
            cloud: connection.cloud,
            verdict,
            overall,
            missing,
            satisfied_by,
            unknown,
            unknown_permissions,
            inventory_read_at: own.and_then(|grants| grants.read_at),
            registration_url: breaks.then(|| link(Link::ApiPermissions)),
            consent_url: breaks.then(|| link(Link::AdminConsent)),
        }
    }
}

/// Returns whether an inventory says if a permission is granted.
fn tells(grants: &StoredGrants, permission: &RequiredPermission) -> bool {
    permission.resource.is_none() || grants.source == Some(InventorySource::AppRoleAssignments)
}

/// Returns the keys of the inventory that a plan of this module reads.
pub fn keys(module: &Module) -> Vec<String> {
    let keys: BTreeSet<&String> = module
        .permissions
        .iter()
        .flat_map(|p| std::iter::once(&p.key).chain(&p.satisfied_by))
        .collect();
    keys.into_iter().cloned().collect()
}

/// Numbers of connections by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanCounts {
    /// Connections that were compared.
    pub connections: u64,
    pub works: u64,
    pub breaks: u64,
    pub unknown: u64,
    /// Disabled ones, which are not compared.
    pub disabled: u64,
}

impl PlanCounts {
    /// Counts one more.
    pub fn count(&mut self, line: &PlanLine) {
        self.connections += 1;
        match line.verdict {
            Verdict::Works => self.works += 1,
            Verdict::Breaks => self.breaks += 1,
            Verdict::Unknown => self.unknown += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::connection::ConnectionStatus;
    use crate::domain::module::ExcessPolicy;
    use uuid::Uuid;

    fn permission(key: &str, resource: Option<Uuid>, blocking: bool) -> RequiredPermission {
        RequiredPermission {
            key: key.to_owned(),
            resource,
            app_role_id: None,
            blocking,
            needed_for: "x".to_owned(),
            satisfied_by: vec!["Write".to_owned()],
        }
    }

    fn line(permissions: Vec<RequiredPermission>, grants: Option<StoredGrants>) -> PlanLine {
        let module = Module {
            key: "own".into(),
            title: "Own".into(),
            excess: ExcessPolicy::Info,
            permissions,
            probes: Vec::new(),
            file: None,
        };
        let connection = ProviderConnection {
            id: ConnectionId(7),
            workspace_id: WorkspaceId(1),
            tenant_id: TenantId(1),
            provider: "microsoft".into(),
            display_name: None,
            status: ConnectionStatus::Enabled,
            entra_tenant_id: None,
            client_id: None,
            cloud: None,
            module: None,
            created_at: None,
            updated_at: None,
        };
        let subject = PlanSubject {
            connection,
            known: ConnectionFacts::default(),
            grants,
        };
        PlanLine::of(&module, subject, |link| format!("https://{link:?}"))
    }

    fn grants(names: &[&str], source: InventorySource, by: Option<i64>) -> Option<StoredGrants> {
        Some(StoredGrants {
            read_at: None,
            source: Some(source),
            read_by: by.map(ConnectionId),
            granted: names.iter().map(|n| (*n).to_owned()).collect(),
        })
    }

    use InventorySource::{AppRoleAssignments, TokenRoles};

    #[test]
    fn a_missing_permission_breaks_and_says_how_much() {
        let needed = || {
            vec![
                permission("Read", None, false),
                permission("Org", None, true),
            ]
        };
        let found = line(needed(), grants(&["Read", "Org"], TokenRoles, Some(7)));
        assert_eq!(
            (found.verdict, found.overall),
            (Verdict::Works, Some(Overall::Ready))
        );
        assert_eq!(found.consent_url, None);
        let found = line(needed(), grants(&["Org"], AppRoleAssignments, None));
        assert_eq!(found.overall, Some(Overall::NeedsAttention));
        assert_eq!(found.consent_url.as_deref(), Some("https://AdminConsent"));
        let registration = found.registration_url.as_deref();
        assert_eq!(registration, Some("https://ApiPermissions"));
        let found = line(needed(), grants(&["Read"], AppRoleAssignments, Some(7)));
        assert_eq!(
            (found.verdict, found.overall),
            (Verdict::Breaks, Some(Overall::Blocked))
        );
        assert_eq!(found.missing[0].permission, "Org");
        let found = line(needed(), grants(&["Write"], AppRoleAssignments, Some(7)));
        assert_eq!(found.verdict, Verdict::Works);
        assert_eq!(found.satisfied_by.len(), 2);
    }

    #[test]
    fn what_is_stored_of_others_tells_nothing() {
        let needed = || vec![permission("Read", None, true)];
        let found = line(needed(), None);
        assert_eq!(found.unknown, Some(Unknown::NeverRead));
        assert_eq!((found.verdict, found.overall), (Verdict::Unknown, None));
        let found = line(needed(), grants(&["Read"], AppRoleAssignments, Some(8)));
        assert_eq!(found.unknown, Some(Unknown::ReadByAnotherConnection));
    }

    #[test]
    fn a_token_tells_nothing_of_other_apis() {
        let needed = || {
            vec![
                permission("Org", None, true),
                permission("x/Read", Some(Uuid::nil()), false),
            ]
        };
        let found = line(needed(), grants(&["Org"], TokenRoles, Some(7)));
        assert_eq!(found.unknown, Some(Unknown::OtherApisNotRead));
        assert_eq!(found.unknown_permissions, ["x/Read"]);
        let found = line(needed(), grants(&["Org"], AppRoleAssignments, Some(7)));
        assert_eq!(found.verdict, Verdict::Breaks);
        // What is known to be missing is told all the same.
        let found = line(needed(), grants(&[], TokenRoles, Some(7)));
        assert_eq!(
            (found.verdict, found.unknown_permissions.len()),
            (Verdict::Breaks, 1)
        );
    }
}
