//! The app's own service principal, its grants, and the APIs that it has grants to.

use super::error::GraphError;
use super::{Call, context, single};
use crate::scenario::Scenario;
use crate::scenario::behaviour::{Owner, Pages};
use crate::{directory, faults};
use serde_json::{Value, json};

const TYPE: &str = "microsoft.graph.servicePrincipal";
const CONTEXT: &str = "servicePrincipals/$entity";

pub(super) fn by_app_id(call: &Call<'_>, app_id: &str) -> Result<Value, GraphError> {
    let graph = directory::GRAPH_APP_ID;
    let business = directory::LINE_OF_BUSINESS_APP_ID;
    found(call, app_id, [call.client_id, graph, business])
}

pub(super) fn by_id(call: &Call<'_>, id: &str) -> Result<Value, GraphError> {
    let graph = directory::graph_service_principal_id(call.tenant);
    let business = directory::line_of_business_id(call.tenant);
    found(call, id, [&own_id(call), &graph, &business])
}

/// The service principal that has this id; the ids are those of the app's own, Graph's and the other API's.
fn found(
    call: &Call<'_>,
    id: &str,
    [app, graph, business]: [&str; 3],
) -> Result<Value, GraphError> {
    let principal = if id == app {
        own(call)
    } else if id == graph {
        directory::graph_service_principal(call.tenant)
    } else if id == business {
        let roles = call.behaviour.other_grants;
        directory::line_of_business_service_principal(call.tenant, roles)
    } else {
        return Err(GraphError::not_found(id));
    };
    single(call, CONTEXT, TYPE, principal)
}

pub(super) fn app_role_assignments(call: &Call<'_>, id: &str) -> Result<Value, GraphError> {
    if id != own_id(call) {
        return Err(GraphError::not_found(id));
    }
    let assignments: Vec<Value> = directory::app_role_assignments(
        call.tenant,
        call.client_id,
        call.behaviour.granted,
        call.behaviour.other_grants,
    )
    .into_iter()
    .map(|item| call.query.select("microsoft.graph.appRoleAssignment", item))
    .collect::<Result<_, _>>()?;
    let own = format!(
        "{}/v1.0/servicePrincipals/{id}/appRoleAssignments",
        call.shared.origin
    );
    let (page, next) = call.query.page(assignments);
    let next = match call.pages {
        None => next.map(|query| format!("{own}?{query}")),
        Some(Pages::Foreign) => Some(faults::trap(call.shared, call.tenant)),
        Some(Pages::Endless) => Some(format!("{own}?{}", call.query.next_without_end())),
        Some(Pages::Circular) => Some(format!("{own}?{}", call.query.again())),
    };
    let mut body = json!({
        "@odata.context": context(call, "appRoleAssignments"),
        "value": page,
    });
    if let (Value::Object(members), Some(next)) = (&mut body, next) {
        members.insert("@odata.nextLink".to_owned(), next.into());
    }
    Ok(body)
}

pub(super) fn oauth2_permission_grants(call: &Call<'_>, id: &str) -> Result<Value, GraphError> {
    if id != own_id(call) {
        return Err(GraphError::not_found(id));
    }
    let delegated = call.behaviour.registration.delegated;
    let grant = directory::delegated_grant(call.tenant, call.client_id, delegated);
    let grants: Vec<Value> = grant
        .into_iter()
        .map(|item| {
            call.query
                .select("microsoft.graph.oAuth2PermissionGrant", item)
        })
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "@odata.context": context(call, "oauth2PermissionGrants"),
        "value": call.query.first(grants),
    }))
}

fn own_id(call: &Call<'_>) -> String {
    directory::service_principal_id(call.tenant, call.client_id)
}

fn own(call: &Call<'_>) -> Value {
    let owner = owner(call);
    directory::own_service_principal(call.tenant, call.client_id, &owner, call.behaviour.enabled)
}

/// The directory that owns the app.
fn owner(call: &Call<'_>) -> String {
    match call.behaviour.registration.owner {
        Owner::Itself => call.tenant.to_owned(),
        Owner::Unknown => directory::unknown_owner_id(call.client_id),
        Owner::TenantOf(number) => Scenario::sibling(call.tenant, number),
    }
}
