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
use crate::provider::microsoft::graph::{Grants, ServicePrincipal, Session};
use crate::provider::microsoft::modules::{INVENTORY, Module, check_key};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What Graph said of the service principal and its grants.
pub(super) struct Read {
    pub service_principal: Result<ServicePrincipal, Fault>,
    /// Null when there was no service principal to ask for.
    pub grants: Option<Result<Grants, Fault>>,
}

/// What is granted, and where that was read.
pub(super) struct Granted {
    pub source: InventorySource,
    /// Names on Graph: these satisfy requirements.
    pub graph: BTreeSet<String>,
    /// All names with their role ids, as far as they are known.
    all: BTreeMap<String, Option<Uuid>>,
}

/// Reads the service principal, then its grants.
pub(super) async fn read(session: &Session<'_>) -> Read {
    let service_principal = session.service_principal().await;
    let grants = match &service_principal {
        Ok(found) => Some(session.grants(found.id).await),
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
        && !grants.graph.keys().eq(roles)
    {
        session.renew_if_cached().await;
    }
    read
}

/// What is granted by the assignments, else by the token; null when neither can be read.
pub(super) fn judge(sheet: &mut Sheet<'_>, read: Read, claims: &Claims) -> Option<Granted> {
    let fault = match (read.grants, read.service_principal) {
        (Some(Ok(grants)), _) => {
            let granted = Granted::by_assignments(grants);
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
        .flat_map(|roles| granted.graph.symmetric_difference(roles))
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
    fn by_assignments(grants: Grants) -> Self {
        Self {
            source: InventorySource::AppRoleAssignments,
            graph: grants.graph_names(),
            all: grants
                .graph
                .into_iter()
                .chain(grants.other)
                .map(|(name, id)| (name, Some(id)))
                .collect(),
        }
    }

    fn by_token(roles: &BTreeSet<String>) -> Self {
        Self {
            source: InventorySource::TokenRoles,
            graph: roles.clone(),
            all: roles.iter().map(|name| (name.clone(), None)).collect(),
        }
    }

    fn evidence(&self) -> Vec<Evidence> {
        vec![
            Evidence::new(EvidenceKind::Source, self.source),
            Evidence::new(EvidenceKind::Count, self.all.len()),
        ]
    }
}

/// A check for each required permission, and what is to be stored: every permission that is
/// granted, and every required one.
pub(super) fn judge_permissions(
    sheet: &mut Sheet<'_>,
    module: &Module,
    granted: &Granted,
    connection: &ProviderConnection,
) -> InventoryRefresh {
    let mut entries: BTreeMap<String, InventoryEntry> = granted
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
    for permission in module.permissions {
        let key = check_key(permission.key);
        let by = satisfied_by(permission, &granted.graph);
        let stand_in = by.filter(|name| *name != permission.key);
        let mut evidence = vec![Evidence::new(EvidenceKind::Permission, permission.key)];
        let status = match by {
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
                PermissionStatus::Granted
            }
            None => {
                evidence.push(Evidence::new(
                    EvidenceKind::AppRoleId,
                    permission.app_role_id,
                ));
                let message = format!(
                    "{} {} is missing: without it, {}.",
                    Reason::PermissionMissing.what(),
                    permission.key,
                    permission.needed_for
                );
                sheet.missing(&key, message, evidence);
                PermissionStatus::Missing
            }
        };
        let details = PermissionDetails {
            required: true,
            app_role_id: Some(permission.app_role_id.to_owned()),
            satisfied_by: stand_in.map(str::to_owned),
            source: Some(granted.source),
        };
        entries.insert(permission.key.to_owned(), entry(status, details));
    }
    InventoryRefresh {
        workspace_id: Some(connection.workspace_id),
        tenant_id: connection.tenant_id,
        source: granted.source,
        entries,
    }
}

fn entry(status: PermissionStatus, details: PermissionDetails) -> InventoryEntry {
    InventoryEntry { status, details }
}
