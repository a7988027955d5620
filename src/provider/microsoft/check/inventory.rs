//! Compares granted permissions with the token and with what the module needs.

use super::offered_roles::Offered;
use super::refusal::{Rights, is_refusal};
use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::connection::ProviderConnection;
use crate::domain::link::Link;
use crate::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
    RequiredPermission, satisfied_by,
};
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::{
    Grants, KnownGrants, ResourceRoles, ServicePrincipal, Session,
};
use crate::provider::microsoft::modules::{
    GRAPH_APP_ID, INVENTORY, Module, check_key, name, resource_name,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ADD_API: &str =
    "License the service of the API, or add its enterprise application, then check again";

/// Graph's answers about the service principal and its grants.
pub(super) struct Read {
    pub service_principal: Result<ServicePrincipal, Fault>,
    /// `None` without a service principal.
    pub grants: Option<Result<Arc<KnownGrants>, Fault>>,
}

/// The granted permissions, and where they were read.
pub(super) struct Granted {
    pub source: InventorySource,
    /// The part that is stored.
    known: Arc<KnownGrants>,
    /// As the directory lists it.
    listed: Arc<KnownGrants>,
    /// Names on Graph, with what only a token of just now carries: these satisfy requirements. None: as listed.
    usable: Option<BTreeSet<String>>,
}

/// Reads the service principal and its grants: at the same time where an earlier check has read its id,
/// else one after the other.
pub(super) async fn read(session: &Session<'_>) -> Read {
    let expected = session.expected_principal().await;
    let early = async {
        match expected {
            Some(known) => Some(session.grants(known.id).await),
            None => None,
        }
    };
    let (service_principal, early) = tokio::join!(session.service_principal(), early);
    let grants = match &service_principal {
        Ok(found) if expected.is_some_and(|known| known.id == found.id) => early,
        Ok(found) => {
            session.expect_principal(found).await;
            Some(session.grants(found.id).await)
        }
        Err(_) => None,
    };
    Read {
        service_principal,
        grants,
    }
}

/// Has a token from an earlier check replaced when it differs from the assignments: then only a
/// difference that is left in a new token is worth a warning.
pub(super) async fn compare(session: &Session<'_>, read: &Read) {
    let token = session.token().await;
    if let (Some(Ok(grants)), Some(roles)) = (&read.grants, &token.claims.roles)
        && grants.grants.graph != *roles
    {
        session.renew_if_cached().await;
    }
}

/// Returns what is granted by the assignments, or else by the token; `None` when neither can be read.
pub(super) fn judge(
    results: &mut CheckResults<'_>,
    read: Read,
    claims: &Claims,
    rights: &Rights<'_>,
    is_fresh: bool,
) -> Option<Granted> {
    let fault = match (read.grants, read.service_principal) {
        (Some(Ok(grants)), _) => {
            let newer = claims.roles.as_ref().filter(|_| is_fresh);
            let granted = Granted::by_assignments(grants, newer);
            warn_or_pass(results, &granted, claims);
            return Some(granted);
        }
        (Some(Err(fault)), _) | (None, Err(fault)) => rights.meaning_of_grants(fault),
        (None, Ok(_)) => Fault::new(Reason::InventoryUnreadable),
    };
    if !is_refusal(&fault) {
        results.fail(INVENTORY, &fault);
        return None;
    }
    let Some(roles) = &claims.roles else {
        let unreadable = Fault {
            reason: Reason::InventoryUnreadable,
            ..fault
        };
        results.fail(INVENTORY, &unreadable);
        return None;
    };
    let granted = Granted::by_token(roles);
    // Where the permission is there, granting it would not help.
    let (reason, remark) = match fault.reason {
        Reason::PermissionDenied => (Reason::InventoryFromToken, ""),
        other => (other, "What is granted was read from the token."),
    };
    let mut evidence = fault.evidence;
    evidence.extend(granted.evidence());
    results.warn(INVENTORY, reason, Severity::Low, remark, evidence);
    Some(granted)
}

fn warn_or_pass(results: &mut CheckResults<'_>, granted: &Granted, claims: &Claims) {
    let differing: Vec<&String> = claims
        .roles
        .iter()
        .flat_map(|roles| granted.listed.grants.graph.symmetric_difference(roles))
        .collect();
    if differing.is_empty() {
        let message = "The granted permissions were read.";
        results.pass(INVENTORY, message, granted.evidence());
        return;
    }
    let mut evidence = granted.evidence();
    evidence.extend(
        differing
            .into_iter()
            .map(|name| Evidence::new(EvidenceKind::Permission, name)),
    );
    results.warn(
        INVENTORY,
        Reason::PermissionPropagating,
        Severity::Low,
        "",
        evidence,
    );
}

impl Granted {
    fn by_token(roles: &BTreeSet<String>) -> Self {
        let known = Arc::new(KnownGrants::new(Grants::of_token(roles), Vec::new()));
        Self {
            source: InventorySource::TokenRoles,
            listed: Arc::clone(&known),
            known,
            usable: None,
        }
    }

    /// Permissions of a fresh token count as granted, even when the list, which replicates, does not have
    /// them yet. An empty list means nothing beside such a token.
    fn by_assignments(listed: Arc<KnownGrants>, newer: Option<&BTreeSet<String>>) -> Self {
        let more = newer.filter(|roles| !roles.is_subset(&listed.grants.graph));
        let (source, known) = match more {
            Some(roles) if listed.grants.all.is_empty() => (
                InventorySource::TokenRoles,
                Arc::new(KnownGrants::new(Grants::of_token(roles), Vec::new())),
            ),
            _ => (InventorySource::AppRoleAssignments, Arc::clone(&listed)),
        };
        Self {
            source,
            known,
            usable: more.map(|roles| roles.union(&listed.grants.graph).cloned().collect()),
            listed,
        }
    }

    /// Names on Graph: these satisfy requirements.
    pub fn graph(&self) -> &BTreeSet<String> {
        self.usable.as_ref().unwrap_or(&self.listed.grants.graph)
    }

    /// The roles that Graph offers, where they were read.
    pub fn graph_roles(&self) -> Option<&ResourceRoles> {
        self.listed.graph_roles()
    }

    /// Keys of everything that is granted, on other APIs too.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.known.grants.all.keys()
    }

    /// The granted permission that satisfies a required one, on whatever API.
    pub fn satisfying<'p>(&'p self, required: &'p RequiredPermission) -> Option<&'p str> {
        satisfying(required, self.graph(), &self.known.grants)
    }

    /// Returns whether a grant of the permission would be visible: a token names those on Graph only.
    fn knows(&self, required: &RequiredPermission) -> bool {
        required.resource.is_none() || self.source == InventorySource::AppRoleAssignments
    }

    fn evidence(&self) -> Vec<Evidence> {
        let mut evidence = vec![
            Evidence::new(EvidenceKind::Source, self.source),
            Evidence::new(EvidenceKind::Count, self.known.grants.all.len()),
        ];
        if self.known.grants.unnamed > 0 {
            let unnamed = self.known.grants.unnamed;
            evidence.push(Evidence::new(EvidenceKind::Unnamed, unnamed));
        }
        evidence
    }
}

/// The granted permission that satisfies a required one: among `graph` where it is one of Graph, else among
/// all that is granted.
fn satisfying<'p>(
    required: &'p RequiredPermission,
    graph: &'p BTreeSet<String>,
    grants: &'p Grants,
) -> Option<&'p str> {
    if required.resource.is_none() {
        return satisfied_by(required, graph);
    }
    let mut able = std::iter::once(&required.key).chain(&required.satisfied_by);
    able.find(|key| grants.all.contains_key(*key))
        .map(String::as_str)
}

/// Judges each required permission, and returns the inventory to store.
pub(super) fn judge_permissions(
    results: &mut CheckResults<'_>,
    module: &Module,
    granted: &Granted,
    offered: &BTreeMap<String, Offered>,
    connection: &ProviderConnection,
) -> InventoryRefresh {
    for permission in &module.permissions {
        let key = check_key(permission);
        let named = name(permission);
        let by = granted.satisfying(permission);
        let stand_in = by.filter(|name| *name != permission.key);
        let mut evidence = vec![Evidence::new(EvidenceKind::Permission, &permission.key)];
        let listed = &granted.listed.grants;
        let is_listed = satisfying(permission, &listed.graph, listed).is_some();
        match by {
            Some(_) if !is_listed => results.warn(
                &key,
                Reason::PermissionPropagating,
                Severity::Low,
                "The token carries it, the list of grants does not yet.",
                evidence,
            ),
            Some(_) => {
                let message = match stand_in {
                    Some(other) => {
                        evidence.push(Evidence::new(EvidenceKind::SatisfiedBy, other));
                        format!("{named} is included in {other}, which is granted.")
                    }
                    None => format!("{named} is granted."),
                };
                results.pass(&key, &message, evidence);
            }
            None if !granted.knows(permission) => {
                let reason = Reason::PermissionUnknown;
                results.warn(&key, reason, reason.severity(), "", evidence);
            }
            None => {
                let offer = offered.get(&permission.key);
                let id = role_id(permission, offer);
                if let Some(lacking) = not_offered(permission, offer) {
                    // It is made where the API is licensed or added, not at the registration.
                    let instead = (offer == Some(&Offered::NoResource))
                        .then_some((ADD_API, Link::EnterpriseApps));
                    let reason = Reason::PermissionNotOffered;
                    results.missing(&key, reason, lacking, instead, evidence);
                    continue;
                }
                if let Some(id) = &id {
                    evidence.push(Evidence::new(EvidenceKind::AppRoleId, id));
                }
                let reason = Reason::PermissionMissing;
                let (what, needed_for) = (reason.what(), &permission.needed_for);
                let message = format!("{what} {named} is missing: without it, {needed_for}.");
                results.missing(&key, reason, message, None, evidence);
            }
        }
    }
    InventoryRefresh {
        workspace_id: Some(connection.workspace_id),
        tenant_id: connection.tenant_id,
        source: granted.source,
        entries: granted
            .known
            .inventory(&module.key, granted.source, || entries(module, granted)),
    }
}

/// The id that the module or the API itself knows.
fn role_id(permission: &RequiredPermission, offer: Option<&Offered>) -> Option<String> {
    permission.app_role_id.clone().or_else(|| match offer {
        Some(Offered::Role(id)) => Some(id.to_string()),
        _ => None,
    })
}

/// Why a permission cannot be granted at all.
fn not_offered(permission: &RequiredPermission, offer: Option<&Offered>) -> Option<String> {
    let resource = permission.resource.unwrap_or(GRAPH_APP_ID);
    let resource = resource_name(resource);
    let lacking = match offer? {
        Offered::Role(_) => return None,
        Offered::NoRole => format!("{resource} has no application role of this name"),
        Offered::NoResource => format!("the directory has no service principal of {resource}"),
    };
    Some(format!(
        "{} {}: {lacking}. Without it, {}.",
        Reason::PermissionNotOffered.what(),
        permission.role(),
        permission.needed_for
    ))
}

/// Returns the entries to store: every granted permission, and every required one.
fn entries(module: &Module, granted: &Granted) -> BTreeMap<String, InventoryEntry> {
    let mut entries: BTreeMap<String, InventoryEntry> = granted
        .known
        .grants
        .all
        .iter()
        .map(|(name, id)| {
            let details = PermissionDetails {
                required: false,
                app_role_id: id.map(|id| id.to_string()),
                satisfied_by: None,
                source: Some(granted.source),
            };
            (name.clone(), entry(PermissionStatus::Granted, details))
        })
        .collect();
    for permission in module.permissions.iter().filter(|p| granted.knows(p)) {
        // Not what the token adds: checks with other tokens share these entries.
        let known = &granted.known.grants;
        let by = satisfying(permission, &known.graph, known);
        let details = PermissionDetails {
            required: true,
            app_role_id: permission.app_role_id.clone().or_else(|| {
                let id = granted.known.grants.all.get(&permission.key)?;
                id.map(|id| id.to_string())
            }),
            satisfied_by: by.filter(|name| *name != permission.key).map(str::to_owned),
            source: Some(granted.source),
        };
        let status = match by {
            Some(_) => PermissionStatus::Granted,
            None => PermissionStatus::Missing,
        };
        entries.insert(permission.key.clone(), entry(status, details));
    }
    entries
}

fn entry(status: PermissionStatus, details: PermissionDetails) -> InventoryEntry {
    InventoryEntry { status, details }
}
