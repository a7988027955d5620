//! Explains why a required permission is missing: not requested, not consented to, or delegated only.

use super::application::Question;
use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::module::Module;
use crate::domain::permission::{RequiredPermission, satisfied_by};
use crate::provider::microsoft::graph::{Application, Offered, Session};
use crate::provider::microsoft::modules::{GRAPH_APP_ID, check_key, name};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// The data for an explanation. What could not be read is absent.
#[derive(Default)]
pub(super) struct Explanation {
    application: Option<Arc<Application>>,
    /// Names of delegated permissions that are granted, by the object id of the resource.
    delegated: BTreeMap<Uuid, BTreeSet<String>>,
    /// Roles that the resources of the missing permissions offer, by app id.
    offered: BTreeMap<Uuid, Arc<Offered>>,
}

fn resource_of(permission: &RequiredPermission) -> Uuid {
    permission.resource.unwrap_or(GRAPH_APP_ID)
}

/// Names on a resource in the form of permission keys.
fn keys(resource: Uuid, names: impl Iterator<Item = String>) -> BTreeSet<String> {
    match resource == GRAPH_APP_ID {
        true => names.collect(),
        false => names.map(|name| format!("{resource}/{name}")).collect(),
    }
}

/// Reads what explains these missing permissions; at the same time, as far as it can be.
pub(super) async fn read(
    session: &Session<'_>,
    service_principal: Option<Uuid>,
    question: Option<&Question<'_>>,
    missing: &[&RequiredPermission],
    deadline: tokio::time::Instant,
) -> Explanation {
    let application = async {
        match question {
            Some(question) => question.ask(true).await,
            None => None,
        }
    };
    let delegated = async {
        let read = session.delegated(service_principal?);
        tokio::time::timeout_at(deadline, read).await.ok()?.ok()
    };
    let offered = async {
        let resources: BTreeSet<Uuid> = missing.iter().map(|p| resource_of(p)).collect();
        let mut offered = BTreeMap::new();
        for resource in resources {
            let read = session.offered(resource);
            if let Ok(Ok(found)) = tokio::time::timeout_at(deadline, read).await {
                offered.insert(resource, found);
            }
        }
        offered
    };
    let (application, delegated, offered) = tokio::join!(application, delegated, offered);
    Explanation {
        application,
        delegated: delegated.unwrap_or_default(),
        offered,
    }
}

impl Explanation {
    /// Only the registration.
    pub fn of(application: Option<Arc<Application>>) -> Self {
        Self {
            application,
            ..Self::default()
        }
    }

    /// The registration, where it could be read.
    pub fn application(&self) -> Option<&Application> {
        self.application.as_deref()
    }

    /// Why this permission is missing; `None` where it is unknown.
    fn reason(&self, permission: &RequiredPermission) -> Option<Reason> {
        let resource = resource_of(permission);
        let offered = self.offered.get(&resource);
        let satisfies = |names: &BTreeSet<String>| satisfied_by(permission, names).is_some();
        let granted_as_scope = offered
            .and_then(|offered| self.delegated.get(&offered.principal?))
            .is_some_and(|names| satisfies(&keys(resource, names.iter().cloned())));
        let asked_for = self.application.as_ref().and_then(|a| a.requested.as_ref());
        let Some(asked_for) = asked_for else {
            return granted_as_scope.then_some(Reason::PermissionDelegatedOnly);
        };
        let Some(requested) = asked_for.get(&resource) else {
            return Some(match granted_as_scope {
                true => Reason::PermissionDelegatedOnly,
                false => Reason::PermissionNotRequested,
            });
        };
        let by_id = permission
            .app_role_id
            .as_deref()
            .and_then(|id| Uuid::try_parse(id).ok())
            .is_some_and(|id| requested.roles.contains(&id));
        let named = |ids: &BTreeSet<Uuid>, names: fn(&Offered) -> &BTreeMap<Uuid, String>| {
            let Some(offered) = offered else {
                return false;
            };
            let names = ids.iter().filter_map(|id| names(offered).get(id).cloned());
            satisfies(&keys(resource, names))
        };
        if by_id || named(&requested.roles, |offered| &offered.roles) {
            return Some(Reason::PermissionNotConsented);
        }
        let requested_as_scope = named(&requested.scopes, |offered| &offered.scopes);
        if granted_as_scope || requested_as_scope {
            return Some(Reason::PermissionDelegatedOnly);
        }
        // Without their names, the requested roles might include one that includes this one.
        let all_named = requested
            .roles
            .iter()
            .all(|id| offered.is_some_and(|offered| offered.roles.contains_key(id)));
        (all_named || permission.satisfied_by.is_empty()).then_some(Reason::PermissionNotRequested)
    }
}

/// Returns the module's permissions whose checks report them as missing.
pub(super) fn missing<'m>(
    results: &CheckResults<'_>,
    module: &'m Module,
) -> Vec<&'m RequiredPermission> {
    let is_missing = |permission: &&RequiredPermission| {
        results.reason(&check_key(permission)) == Some(Reason::PermissionMissing)
    };
    module.permissions.iter().filter(is_missing).collect()
}

/// Puts the reason into the check of each missing permission, where it is known.
pub(super) fn explain(
    results: &mut CheckResults<'_>,
    missing: &[&RequiredPermission],
    explanation: &Explanation,
) {
    for permission in missing {
        if let Some(reason) = explanation.reason(permission) {
            let message = format!(
                "{} {} is missing: without it, {}. {}",
                reason.what(),
                name(permission),
                permission.needed_for,
                reason.why()
            );
            results.explain(&check_key(permission), reason, message);
        }
    }
}
