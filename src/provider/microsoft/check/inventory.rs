//! What is granted, compared with the token's view and with what the module needs.

use super::sheet::Sheet;
use crate::domain::Reason;
use crate::domain::connection::ProviderConnection;
use crate::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
    satisfied_by,
};
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::{Grants, KnownGrants, ServicePrincipal, Session};
use crate::provider::microsoft::modules::{INVENTORY, Module, check_key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What Graph said of the service principal and its grants.
pub(super) struct Read {
    pub service_principal: Result<ServicePrincipal, Fault>,
    /// Null when there was no service principal to ask for.
    pub grants: Option<Result<Arc<KnownGrants>, Fault>>,
}

/// What is granted, and where that was read.
pub(super) struct Granted {
    pub source: InventorySource,
    known: Arc<KnownGrants>,
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
pub(super) async fn compare(session: &Session<'_>, read: Read) -> Read {
    let token = session.token().await;
    if let (Some(Ok(grants)), Some(roles)) = (&read.grants, &token.claims.roles)
        && grants.grants.graph != *roles
    {
        session.renew_if_cached().await;
    }
    read
}

/// What is granted by the assignments, else by the token; null when neither can be read.
pub(super) fn judge(sheet: &mut Sheet<'_>, read: Read, claims: &Claims) -> Option<Granted> {
    let fault = match (read.grants, read.service_principal) {
        (Some(Ok(grants)), _) => {
            let granted = Granted {
                source: InventorySource::AppRoleAssignments,
                known: grants,
            };
            warn_or_pass(sheet, &granted, claims);
            return Some(granted);
        }
        (Some(Err(fault)), _) | (None, Err(fault)) => fault,
        (None, Ok(_)) => Fault::new(Reason::InventoryUnreadable),
    };
    if fault.reason != Reason::PermissionDenied {
        sheet.fail(INVENTORY, &fault);
        return None;
    }
    let Some(roles) = &claims.roles else {
        let unreadable = Fault {
            reason: Reason::InventoryUnreadable,
            ..fault
        };
        sheet.fail(INVENTORY, &unreadable);
        return None;
    };
    let granted = Granted::by_token(roles);
    let mut evidence = fault.evidence;
    evidence.extend(granted.evidence());
    sheet.warn(
        INVENTORY,
        Reason::InventoryFromToken,
        Reason::InventoryFromToken.severity(),
        "",
        evidence,
    );
    Some(granted)
}

fn warn_or_pass(sheet: &mut Sheet<'_>, granted: &Granted, claims: &Claims) {
    let differing: Vec<&String> = claims
        .roles
        .iter()
        .flat_map(|roles| granted.graph().symmetric_difference(roles))
        .collect();
    if differing.is_empty() {
        let message = "The granted permissions were read.";
        sheet.pass(INVENTORY, message, granted.evidence());
        return;
    }
    let mut evidence = granted.evidence();
    evidence.extend(
        differing
            .into_iter()
            .map(|name| Evidence::new(EvidenceKind::Permission, name)),
    );
    sheet.warn(
        INVENTORY,
        Reason::PermissionPropagating,
        Severity::Low,
        "",
        evidence,
    );
}

impl Granted {
    fn by_token(roles: &BTreeSet<String>) -> Self {
        Self {
            source: InventorySource::TokenRoles,
            known: Arc::new(KnownGrants::new(Grants::of_token(roles), Vec::new())),
        }
    }

    /// Names on Graph: these satisfy requirements.
    pub fn graph(&self) -> &BTreeSet<String> {
        &self.known.grants.graph
    }

    fn evidence(&self) -> Vec<Evidence> {
        vec![
            Evidence::new(EvidenceKind::Source, self.source),
            Evidence::new(EvidenceKind::Count, self.known.grants.all.len()),
        ]
    }
}

/// A check for each required permission, and what is to be stored.
pub(super) fn judge_permissions(
    sheet: &mut Sheet<'_>,
    module: &Module,
    granted: &Granted,
    connection: &ProviderConnection,
) -> InventoryRefresh {
    for permission in &module.permissions {
        let key = check_key(permission);
        let by = satisfied_by(permission, granted.graph());
        let stand_in = by.filter(|name| *name != permission.key);
        let mut evidence = vec![Evidence::new(EvidenceKind::Permission, &permission.key)];
        match by {
            Some(_) => {
                let message = match stand_in {
                    Some(name) => {
                        evidence.push(Evidence::new(EvidenceKind::SatisfiedBy, name));
                        format!(
                            "{} is included in {name}, which is granted.",
                            permission.key
                        )
                    }
                    None => format!("{} is granted.", permission.key),
                };
                sheet.pass(&key, &message, evidence);
            }
            None => {
                if let Some(id) = &permission.app_role_id {
                    evidence.push(Evidence::new(EvidenceKind::AppRoleId, id));
                }
                let message = format!(
                    "{} {} is missing: without it, {}.",
                    Reason::PermissionMissing.what(),
                    permission.key,
                    permission.needed_for
                );
                sheet.missing(&key, message, evidence);
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

/// What is to be stored: every permission that is granted, and every required one.
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
    for permission in &module.permissions {
        let by = satisfied_by(permission, granted.graph());
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
