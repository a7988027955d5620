//! Reads the roles that the APIs of missing permissions offer in this directory.

use super::inventory::Granted;
use crate::domain::module::Module;
use crate::domain::permission::{InventorySource, RequiredPermission};
use crate::provider::microsoft::graph::{ResourceRoles, Session};
use crate::provider::microsoft::modules::GRAPH_APP_ID;
use futures::{StreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Resources that are requested concurrently.
const AT_ONCE: usize = 4;

/// Whether a permission can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// The role has this id.
    Role(Uuid),
    /// The API has no role of this name.
    NoRole,
    /// The directory has no service principal of the API.
    NoResource,
}

/// The role by its name, or by the id that the module knows.
fn role_of(permission: &RequiredPermission, roles: &ResourceRoles) -> Option<Uuid> {
    roles.id_of(permission.role()).or_else(|| {
        let id = Uuid::try_parse(permission.app_role_id.as_deref()?).ok()?;
        roles.has(id).then_some(id)
    })
}

/// Returns the offers by the keys of missing permissions, without those that cannot be read. Each API is
/// requested in any case: a directory may not have it, and a cloud may not offer all roles of Graph.
pub(super) async fn of_missing(
    session: &Session<'_>,
    module: &Module,
    granted: &Granted,
) -> BTreeMap<String, Offered> {
    let mut offered = BTreeMap::new();
    if granted.source != InventorySource::AppRoleAssignments {
        return offered;
    }
    let missing: Vec<_> = module
        .permissions
        .iter()
        .filter(|p| granted.satisfying(p).is_none())
        .collect();
    let resource = |id: Option<Uuid>| id.unwrap_or(GRAPH_APP_ID);
    let known = granted.graph_roles();
    let resources: BTreeSet<Uuid> = missing
        .iter()
        .map(|p| resource(p.resource))
        .filter(|id| *id != GRAPH_APP_ID || known.is_none())
        .collect();
    let offers: BTreeMap<Uuid, _> = stream::iter(resources)
        .map(|app_id| async move { (app_id, session.offer(app_id).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for permission in missing {
        let app_id = resource(permission.resource);
        let roles = match offers.get(&app_id) {
            Some(Ok(Some(roles))) => Some(roles.as_ref()),
            Some(Ok(None)) => None,
            None if app_id == GRAPH_APP_ID && known.is_some() => known,
            Some(Err(_)) | None => continue,
        };
        let found = match roles {
            None => Offered::NoResource,
            Some(roles) => match role_of(permission, roles) {
                Some(id) => Offered::Role(id),
                // Graph always offers some.
                None if app_id == GRAPH_APP_ID && roles.is_empty() => continue,
                None => Offered::NoRole,
            },
        };
        offered.insert(permission.key.clone(), found);
    }
    offered
}
