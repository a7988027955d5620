//! From role ids to names. What a resource offers changes rarely, so it is kept in memory.

use super::answers::Resource;
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::modules::GRAPH_APP_ID;
use moka::future::Cache;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Role names by (cloud, directory, resource).
pub(in super::super) type RoleCache = Cache<(String, Uuid, Uuid), Arc<ResourceRoles>>;

/// An empty cache.
pub(in super::super) fn role_cache(entries: u64, ttl: Duration) -> RoleCache {
    Cache::builder()
        .max_capacity(entries)
        .time_to_live(ttl)
        .build()
}

/// The application roles of one resource.
#[derive(Debug)]
pub(in super::super) struct ResourceRoles {
    app_id: Uuid,
    /// Null where the role has no name that may be shown.
    names: HashMap<Uuid, Option<String>>,
}

impl From<Resource> for ResourceRoles {
    fn from(resource: Resource) -> Self {
        Self {
            app_id: resource.app_id,
            names: resource
                .app_roles
                .into_iter()
                .map(|role| {
                    let name = role.value.filter(|v| evidence::is_permission_name(v));
                    (role.id, name)
                })
                .collect(),
        }
    }
}

impl ResourceRoles {
    /// Whether all these roles are known. The nil role, "default access", always is.
    pub fn knows_all(&self, roles: &[Uuid]) -> bool {
        roles
            .iter()
            .all(|id| id.is_nil() || self.names.contains_key(id))
    }

    /// The grants that these roles are. A role without a name is none: it opens nothing that a
    /// permission is required for.
    pub fn name(&self, roles: &[Uuid]) -> Grants {
        let named = roles
            .iter()
            .filter_map(|id| Some((self.names.get(id)?.clone()?, *id)));
        let mut grants = Grants::default();
        if self.app_id == GRAPH_APP_ID {
            grants.graph = named.collect();
        } else {
            grants.other = named
                .map(|(name, id)| (format!("{}/{name}", self.app_id), id))
                .collect();
        }
        grants
    }
}

/// Granted application permissions, by name, with their role ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Grants {
    /// On Microsoft Graph. Only these satisfy what a module requires.
    pub graph: BTreeMap<String, Uuid>,
    /// On other resources, as `<appId of the resource>/<role>`, so that no foreign role can pass
    /// for one of Graph's.
    pub other: BTreeMap<String, Uuid>,
}

impl Grants {
    /// Both together.
    pub fn merge(mut self, more: Self) -> Self {
        self.graph.extend(more.graph);
        self.other.extend(more.other);
        self
    }

    /// Names of the permissions on Graph.
    pub fn graph_names(&self) -> BTreeSet<String> {
        self.graph.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(app_id: Uuid) -> ResourceRoles {
        let answer: Resource = serde_json::from_value(json!({
            "appId": app_id,
            "appRoles": [
                {"id": Uuid::from_u128(1), "value": "Directory.Read.All"},
                {"id": Uuid::from_u128(2), "value": null},
                {"id": Uuid::from_u128(3), "value": "bad name"},
            ],
        }))
        .unwrap();
        answer.into()
    }

    fn ids() -> Vec<Uuid> {
        (0..5).map(Uuid::from_u128).collect()
    }

    #[test]
    fn only_roles_of_graph_itself_are_graph_permissions() {
        let graph = resource(GRAPH_APP_ID).name(&ids());
        assert_eq!(graph.graph_names(), ["Directory.Read.All".into()].into());
        assert!(graph.other.is_empty());
        let foreign = resource(Uuid::from_u128(9)).name(&ids());
        assert!(foreign.graph.is_empty());
        assert_eq!(
            foreign.other.keys().next().unwrap(),
            "00000000-0000-0000-0000-000000000009/Directory.Read.All"
        );
    }

    #[test]
    fn an_unknown_role_shows_that_the_names_are_old() {
        let roles = resource(GRAPH_APP_ID);
        assert!(roles.knows_all(&[Uuid::nil(), Uuid::from_u128(2)]));
        assert!(!roles.knows_all(&[Uuid::from_u128(4)]));
    }
}
