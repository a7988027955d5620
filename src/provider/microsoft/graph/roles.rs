//! Maps role ids to names. The roles that a resource offers change rarely, so they are cached.

use super::responses::{AppRole, Resource, ServicePrincipal};
use crate::domain::permission::{Inventory, InventoryEntry, InventorySource};
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::modules::GRAPH_APP_ID;
use moka::future::Cache;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Role names by (cloud, directory, resource): the id of its service principal, or its app id.
pub(in super::super) type RoleCache = Cache<(String, Uuid, Uuid), Arc<ResourceRoles>>;

/// Cloud, directory, application.
pub(in super::super) type PrincipalKey = (String, Uuid, Uuid);

/// The service principal of an application, as an earlier check read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct KnownPrincipal {
    /// Its object id.
    pub id: Uuid,
    /// The directory that the application is registered in.
    pub owner: Option<Uuid>,
}

impl From<&ServicePrincipal> for KnownPrincipal {
    fn from(read: &ServicePrincipal) -> Self {
        Self {
            id: read.id,
            owner: read.app_owner_organization_id,
        }
    }
}

/// Service principals that earlier checks have read.
pub(in super::super) type PrincipalCache = Cache<PrincipalKey, KnownPrincipal>;

/// An empty cache.
pub(in super::super) fn cache<K, V>(entries: u64, ttl: Duration) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(entries)
        .time_to_live(ttl)
        .build()
}

/// The application roles of one resource.
#[derive(Debug)]
pub(in super::super) struct ResourceRoles {
    app_id: Uuid,
    /// `None` where the role has no name that may be shown.
    names: HashMap<Uuid, Option<String>>,
    /// Roles with a name that may not be shown.
    unshown: HashSet<Uuid>,
}

impl From<Resource> for ResourceRoles {
    fn from(resource: Resource) -> Self {
        let mut unshown = HashSet::new();
        let mut names = HashMap::new();
        for AppRole { id, value } in resource.app_roles {
            let value = value.filter(|value| !value.is_empty());
            let has_value = value.is_some();
            let name = value.filter(|value| evidence::is_permission_name(value));
            if has_value && name.is_none() {
                unshown.insert(id);
            }
            names.insert(id, name);
        }
        Self {
            app_id: resource.app_id,
            names,
            unshown,
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

    /// Whether there is a role with this id.
    pub fn has(&self, id: Uuid) -> bool {
        self.names.contains_key(&id)
    }

    /// Returns whether it offers nothing; its list then means nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The id of the role with this name.
    pub fn id_of(&self, name: &str) -> Option<Uuid> {
        let is_it = |known: &&Option<String>| known.as_deref() == Some(name);
        let mut ids = self.names.iter().filter(|(_, known)| is_it(known));
        ids.next().map(|(id, _)| *id)
    }

    /// The grants that these roles are. A role without a name is none: it opens nothing that a
    /// permission is required for.
    pub fn name(&self, roles: &[Uuid]) -> Grants {
        let named = roles
            .iter()
            .filter_map(|id| Some((self.names.get(id)?.clone()?, Some(*id))));
        let mut grants = Grants {
            unnamed: roles.iter().filter(|id| self.unshown.contains(id)).count(),
            ..Grants::default()
        };
        if self.app_id == GRAPH_APP_ID {
            grants.all = named.collect();
            grants.graph = grants.all.keys().cloned().collect();
        } else {
            grants.all = named
                .map(|(name, id)| (format!("{}/{name}", self.app_id), id))
                .collect();
        }
        grants
    }
}

/// Granted application permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Grants {
    /// Names of those on Microsoft Graph. Only these satisfy what a module requires.
    pub graph: BTreeSet<String>,
    /// All names, with the ids of their roles as far as they are known. Those on other resources as
    /// `<appId of the resource>/<role>`, so that no foreign role can pass for one of Graph's.
    pub all: BTreeMap<String, Option<Uuid>>,
    /// How many more have names that may not be shown.
    pub unnamed: usize,
}

impl Grants {
    /// Returns the grants on Graph that a token has.
    pub fn of_token(roles: &BTreeSet<String>) -> Self {
        Self {
            graph: roles.clone(),
            all: roles.iter().map(|name| (name.clone(), None)).collect(),
            unnamed: 0,
        }
    }

    /// Merges both.
    pub fn merge(mut self, more: Self) -> Self {
        self.graph.extend(more.graph);
        self.all.extend(more.all);
        self.unnamed += more.unnamed;
        self
    }
}

/// A resource, with the roles that it offers.
pub(in super::super) type Offer = (Uuid, Arc<ResourceRoles>);

/// Grants as they were read, with the inventory computed from them. A later check that reads the same bytes
/// reuses them.
#[derive(Debug)]
pub(in super::super) struct KnownGrants {
    pub grants: Grants,
    /// The role lists that the names come from: while these are cached the names are the same.
    resources: Vec<Offer>,
    /// By module and source.
    inventories: Mutex<BTreeMap<(String, InventorySource), Arc<Inventory>>>,
}

impl KnownGrants {
    pub fn new(grants: Grants, resources: Vec<Offer>) -> Self {
        Self {
            grants,
            resources,
            inventories: Mutex::default(),
        }
    }

    /// Whether the names would be the same if they were looked up now.
    pub async fn is_current(&self, roles: &RoleCache, cloud: &str, tenant: Uuid) -> bool {
        for (resource, used) in &self.resources {
            let cached = roles.get(&(cloud.to_owned(), tenant, *resource)).await;
            if !cached.is_some_and(|cached| Arc::ptr_eq(&cached, used)) {
                return false;
            }
        }
        true
    }

    /// The roles that Graph itself offers, where they were read.
    pub fn graph_roles(&self) -> Option<&ResourceRoles> {
        let mut resources = self.resources.iter().map(|(_, roles)| roles.as_ref());
        resources.find(|roles| roles.app_id == GRAPH_APP_ID && !roles.is_empty())
    }

    /// The inventory for a module, made once.
    pub fn inventory(
        &self,
        module: &str,
        source: InventorySource,
        make: impl FnOnce() -> BTreeMap<String, InventoryEntry>,
    ) -> Arc<Inventory> {
        let mut known = self.inventories.lock();
        let made = known
            .entry((module.to_owned(), source))
            .or_insert_with(|| Arc::new(make().into()));
        Arc::clone(made)
    }
}

/// Known grants, by cloud, directory, and the SHA-256 of the answer that listed them.
pub(in super::super) type GrantCache = Cache<(String, Uuid, [u8; 32]), Arc<KnownGrants>>;
