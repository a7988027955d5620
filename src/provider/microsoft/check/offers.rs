//! What the APIs of missing permissions offer in this directory.

use super::inventory::Granted;
use crate::domain::module::Module;
use crate::domain::permission::InventorySource;
use crate::provider::microsoft::graph::Session;
use crate::provider::microsoft::modules::GRAPH_APP_ID;
use futures::{StreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Resources that are asked at the same time.
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

/// By the keys of permissions that are missing and whose ids the module does not know. What cannot be read
/// is left out. Other APIs than Graph are asked in any case: a directory need not have them.
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
        .filter(|p| p.resource.is_some() || p.app_role_id.is_none())
        .filter(|p| granted.satisfying(p).is_none())
        .collect();
    let resource = |id: Option<Uuid>| id.unwrap_or(GRAPH_APP_ID);
    let resources: BTreeSet<Uuid> = missing.iter().map(|p| resource(p.resource)).collect();
    let offers: BTreeMap<Uuid, _> = stream::iter(resources)
        .map(|app_id| async move { (app_id, session.offer(app_id).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for permission in missing {
        let found = match offers.get(&resource(permission.resource)) {
            Some(Ok(Some(roles))) => match roles.id_of(permission.role()) {
                Some(id) => Offered::Role(id),
                None => Offered::NoRole,
            },
            Some(Ok(None)) => Offered::NoResource,
            Some(Err(_)) | None => continue,
        };
        offered.insert(permission.key.clone(), found);
    }
    offered
}
