//! What a simulated directory consists of. Everything follows from the tenant's id, so that two
//! calls, or two simulators, tell the same of it.

use super::app_roles::{self, AppRole};
use super::scenario::behaviour::Registration;
use aws_lc_rs::digest;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

/// Microsoft Graph's application id, the same in every tenant.
pub(crate) const GRAPH_APP_ID: &str = "00000003-0000-0000-c000-000000000000";
/// Application id of the other API, the same in every tenant.
pub const LINE_OF_BUSINESS_APP_ID: &str = "5c0000a0-0000-4000-8000-000000000001";
/// Owner of Microsoft's own applications.
const MICROSOFT_TENANT_ID: &str = "f8cdef31-a31e-4b4a-93e4-5f571e91255a";
/// When everything in a simulated directory was created.
const CREATED: &str = "2021-03-04T05:06:07Z";

/// A GUID that follows from what is hashed.
fn derived_id(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.to_ascii_lowercase().as_bytes());
        context.update(b"\0");
    }
    let mut bytes = [0_u8; 16];
    for (byte, hashed) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *byte = *hashed;
    }
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// The id of an app's service principal in a simulated tenant.
pub fn service_principal_id(tenant_id: &str, client_id: &str) -> String {
    derived_id(&["service principal", tenant_id, client_id])
}

/// The id of Microsoft Graph's service principal in a simulated tenant.
pub fn graph_service_principal_id(tenant_id: &str) -> String {
    derived_id(&["resource", tenant_id, GRAPH_APP_ID])
}

/// The id of another API's service principal, for tenants that granted more than Graph roles.
pub(crate) fn line_of_business_id(tenant_id: &str) -> String {
    derived_id(&["resource", tenant_id, "line of business"])
}

/// A directory that is not the one that was asked for.
pub(crate) fn strange_tenant_id(tenant_id: &str) -> String {
    derived_id(&["another directory", tenant_id])
}

/// The tenant's display name.
pub(crate) fn display_name(scenario: &str, tenant_id: &str) -> String {
    let last = tenant_id.rsplit('-').next().unwrap_or_default();
    format!("Simulated {scenario} {last}")
}

/// `organization`, whole. Callers select from it.
pub(crate) fn organization(tenant_id: &str, name: &str, licensed: bool) -> Value {
    let domain = format!("t{}.onmicrosoft.com", tenant_id.replace('-', ""));
    let plan = |service: &str, id: &str, status: &str| {
        json!({
            "assignedDateTime": CREATED,
            "capabilityStatus": status,
            "service": service,
            "servicePlanId": id,
        })
    };
    let intune = if licensed { "Enabled" } else { "Deleted" };
    json!({
        "id": tenant_id,
        "deletedDateTime": null,
        "displayName": name,
        "countryLetterCode": "DE",
        "createdDateTime": CREATED,
        "tenantType": "AAD",
        "verifiedDomains": [{
            "capabilities": "Email, OfficeCommunicationsOnline",
            "isDefault": true,
            "isInitial": true,
            "name": domain,
            "type": "Managed",
        }],
        "assignedPlans": [
            plan("AADPremiumService", "41781fb2-bc02-4b7c-bd55-b576c07bb09d", "Enabled"),
            plan("SCO", "c1ec4a95-1f05-45b3-a911-aa3fa01094f5", intune),
        ],
    })
}

/// An owner of apps that is no simulated tenant.
pub(crate) fn unknown_owner_id(client_id: &str) -> String {
    derived_id(&["owner", client_id])
}

/// A delegated permission of Graph.
fn scope_id(role: &AppRole) -> String {
    derived_id(&["scope", role.name])
}

/// The app's registration. `now`: seconds since 1970.
pub(crate) fn application(client_id: &str, registration: &Registration, now: i64) -> Value {
    let access = |id: &str, kind: &str| json!({"id": id, "type": kind});
    let roles = registration
        .roles
        .iter()
        .map(|role| access(role.id, "Role"));
    let scopes = registration
        .scopes
        .iter()
        .map(|scope| access(&scope_id(scope), "Scope"));
    let requested: Vec<Value> = roles.chain(scopes).collect();
    let today = now - now.rem_euclid(86_400);
    let secrets: Vec<Value> = registration
        .secrets
        .iter()
        .enumerate()
        .map(|(place, secret)| {
            let ends = DateTime::from_timestamp(today + 86_400 * secret.ends_in_days, 0);
            json!({
                "customKeyIdentifier": null,
                "displayName": format!("worker {place}"),
                "endDateTime": ends.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
                "hint": secret.hint,
                "keyId": derived_id(&["secret", client_id, &place.to_string()]),
                "secretText": null,
                "startDateTime": CREATED,
            })
        })
        .collect();
    json!({
        "id": derived_id(&["application", client_id]),
        "deletedDateTime": null,
        "appId": client_id,
        "createdDateTime": CREATED,
        "displayName": "Simulated app",
        "keyCredentials": [],
        "passwordCredentials": secrets,
        "requiredResourceAccess": [{"resourceAppId": GRAPH_APP_ID, "resourceAccess": requested}],
        "signInAudience": "AzureADMultipleOrgs",
    })
}

/// What is granted to the app on behalf of all users; nothing where the list is empty.
pub(crate) fn delegated_grant(
    tenant_id: &str,
    client_id: &str,
    scopes: &[AppRole],
) -> Option<Value> {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name).collect();
    let client = service_principal_id(tenant_id, client_id);
    (!names.is_empty()).then(|| {
        json!({
            "id": derived_id(&["delegated grant", &client]),
            "clientId": client,
            "consentType": "AllPrincipals",
            "principalId": null,
            "resourceId": graph_service_principal_id(tenant_id),
            "scope": names.join(" "),
        })
    })
}

/// The app's own service principal.
pub(crate) fn own_service_principal(
    tenant_id: &str,
    client_id: &str,
    owner: &str,
    enabled: bool,
) -> Value {
    json!({
        "id": service_principal_id(tenant_id, client_id),
        "deletedDateTime": null,
        "accountEnabled": enabled,
        "appDisplayName": "Simulated app",
        "appId": client_id,
        "appOwnerOrganizationId": owner,
        "appRoles": [],
        "createdDateTime": CREATED,
        "displayName": "Simulated app",
        "servicePrincipalNames": [client_id],
        "servicePrincipalType": "Application",
    })
}

/// Microsoft Graph's service principal, with every role that it offers.
pub(crate) fn graph_service_principal(tenant_id: &str) -> Value {
    let roles = app_roles::OFFERED
        .iter()
        .map(|role| (role.id.to_owned(), role.name.to_owned()));
    let mut graph = resource(
        &graph_service_principal_id(tenant_id),
        GRAPH_APP_ID,
        MICROSOFT_TENANT_ID,
        "Microsoft Graph",
        roles,
    );
    let scopes = app_roles::OFFERED.iter().map(|role| {
        json!({"id": scope_id(role), "isEnabled": true, "type": "Admin", "value": role.name})
    });
    graph["oauth2PermissionScopes"] = scopes.collect();
    graph
}

/// The other API's service principal, with a role more than there are assignments.
pub(crate) fn line_of_business_service_principal(tenant_id: &str, roles: usize) -> Value {
    resource(
        &line_of_business_id(tenant_id),
        LINE_OF_BUSINESS_APP_ID,
        tenant_id,
        "Line of business API",
        (0..=roles).map(|n| {
            (
                line_of_business_role(tenant_id, n),
                format!("Records.{n}.Read"),
            )
        }),
    )
}

fn line_of_business_role(tenant_id: &str, number: usize) -> String {
    derived_id(&["line of business role", tenant_id, &number.to_string()])
}

fn resource(
    id: &str,
    app_id: &str,
    owner: &str,
    name: &str,
    roles: impl Iterator<Item = (String, String)>,
) -> Value {
    let roles: Vec<Value> = roles
        .map(|(id, value)| {
            json!({
                "allowedMemberTypes": ["Application"],
                "description": format!("Allows the app what {value} stands for."),
                "displayName": value,
                "id": id,
                "isEnabled": true,
                "origin": "Application",
                "value": value,
            })
        })
        .collect();
    json!({
        "id": id,
        "deletedDateTime": null,
        "accountEnabled": true,
        "appDisplayName": name,
        "appId": app_id,
        "appOwnerOrganizationId": owner,
        "appRoles": roles,
        "createdDateTime": CREATED,
        "displayName": name,
        "oauth2PermissionScopes": [],
        "servicePrincipalNames": [app_id],
        "servicePrincipalType": "Application",
    })
}

/// The app's role assignments, the ones to the other API first: a caller that reads only the first
/// page misses Graph's.
pub(crate) fn app_role_assignments(
    tenant_id: &str,
    client_id: &str,
    granted: &[AppRole],
    other_grants: usize,
) -> Vec<Value> {
    let principal = service_principal_id(tenant_id, client_id);
    let assignment = |resource: &str, resource_name: &str, role: &str| {
        json!({
            "id": derived_id(&["assignment", &principal, resource, role]),
            "deletedDateTime": null,
            "appRoleId": role,
            "createdDateTime": CREATED,
            "principalDisplayName": "Simulated app",
            "principalId": principal,
            "principalType": "ServicePrincipal",
            "resourceDisplayName": resource_name,
            "resourceId": resource,
        })
    };
    let other = line_of_business_id(tenant_id);
    let graph = graph_service_principal_id(tenant_id);
    (0..other_grants)
        .map(|n| {
            let role = line_of_business_role(tenant_id, n);
            assignment(&other, "Line of business API", &role)
        })
        .chain(
            granted
                .iter()
                .map(|role| assignment(&graph, "Microsoft Graph", role.id)),
        )
        .collect()
}
