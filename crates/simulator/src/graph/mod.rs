//! The Graph calls that a check makes: `GET /v1.0/…`.

mod applications;
mod authorize;
pub(crate) mod error;
mod intune;
mod query;
mod service_principals;

use self::error::{GraphError, found};
use self::query::Query;
use super::calls::Endpoint;
use super::scenario::Scenario;
use super::scenario::behaviour::{Behaviour, Pages, TokenForm, What};
use super::state::Simulated;
use super::tokens::AccessClaims;
use super::{directory, faults};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;

/// What a path addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resource {
    Organization,
    ServicePrincipalByAppId(String),
    ServicePrincipal(String),
    AppRoleAssignments(String),
    Oauth2PermissionGrants(String),
    ApplicationByAppId(String),
    DeviceManagement,
    DeviceConfigurations,
    RoleDefinitions,
    Unknown,
}

impl Resource {
    /// Of a decoded path below `/v1.0/`.
    fn of(path: &str) -> Self {
        let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match segments.as_slice() {
            ["organization"] => Self::Organization,
            ["servicePrincipals", id] => Self::ServicePrincipal((*id).to_owned()),
            ["servicePrincipals", id, "appRoleAssignments"] => {
                Self::AppRoleAssignments((*id).to_owned())
            }
            ["servicePrincipals", id, "oauth2PermissionGrants"] => {
                Self::Oauth2PermissionGrants((*id).to_owned())
            }
            ["deviceManagement"] => Self::DeviceManagement,
            ["deviceManagement", "deviceConfigurations"] => Self::DeviceConfigurations,
            ["deviceManagement", "roleDefinitions"] => Self::RoleDefinitions,
            [one] => {
                let by_app_id = |kind: &str| {
                    let rest = one.strip_prefix(kind)?.strip_prefix("(appId='")?;
                    Some(rest.strip_suffix("')")?.to_ascii_lowercase())
                };
                if let Some(id) = by_app_id("servicePrincipals") {
                    Self::ServicePrincipalByAppId(id)
                } else if let Some(id) = by_app_id("applications") {
                    Self::ApplicationByAppId(id)
                } else {
                    Self::Unknown
                }
            }
            _ => Self::Unknown,
        }
    }

    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Organization => Endpoint::Organization,
            Self::ServicePrincipalByAppId(_) => Endpoint::ServicePrincipalByAppId,
            Self::ServicePrincipal(_) => Endpoint::ServicePrincipal,
            Self::AppRoleAssignments(_) => Endpoint::AppRoleAssignments,
            Self::Oauth2PermissionGrants(_) => Endpoint::Oauth2PermissionGrants,
            Self::ApplicationByAppId(_) => Endpoint::ApplicationByAppId,
            Self::DeviceManagement => Endpoint::DeviceManagement,
            Self::DeviceConfigurations => Endpoint::DeviceConfigurations,
            Self::RoleDefinitions => Endpoint::RoleDefinitions,
            Self::Unknown => Endpoint::Other,
        }
    }
}

/// A call whose token is good.
struct Call<'a> {
    shared: &'a Simulated,
    tenant: &'a str,
    client_id: &'a str,
    scenario: Scenario,
    behaviour: &'static Behaviour,
    query: &'a Query,
    /// What is wrong with the pages of a list, if anything.
    pages: Option<Pages>,
}

pub(super) async fn answer(
    State(shared): State<Arc<Simulated>>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    shared.wait(shared.options.latency).await;
    match answer_call(&shared, &path, query.as_deref(), &method, &headers).await {
        Ok(response) => response,
        Err(error) => error.answer(&shared, &headers),
    }
}

async fn answer_call(
    shared: &Arc<Simulated>,
    path: &str,
    query: Option<&str>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, GraphError> {
    let resource = Resource::of(path);
    let endpoint = resource.endpoint();
    let token = authorize::bearer(shared, headers)?;
    let tenant = token.tid.to_ascii_lowercase();
    shared.tenants().count(&tenant, endpoint);
    authorize::check_token(shared, &token)?;
    let scenario =
        Scenario::of(&tenant).ok_or_else(|| GraphError::invalid_token("Its tenant is unknown."))?;
    let behaviour = scenario.behaviour();
    if behaviour.slow {
        shared.wait(shared.options.slow_answer).await;
    }
    spend(shared, &tenant, &token, endpoint)?;
    let mut pages = None;
    match faults::due(shared, &tenant, behaviour, endpoint) {
        Some(What::Pages(wrong)) => pages = Some(wrong),
        Some(what) => {
            let mut response = faults::show(shared, what, &tenant, endpoint, headers).await;
            if matches!(what, What::Throttled(_))
                && let Ok(scope) = HeaderValue::try_from(scope_of_tenant(&token, &tenant))
            {
                response.headers_mut().insert(error::THROTTLE_SCOPE, scope);
            }
            return Ok(response);
        }
        None => {}
    }
    if behaviour.token_form == TokenForm::WithoutServicePrincipal {
        return Err(GraphError::identity_not_found());
    }
    if resource == Resource::Unknown {
        let segment = path.rsplit('/').next().unwrap_or_default();
        let message = format!("Resource not found for the segment '{segment}'.");
        return Err(GraphError::bad_request(message));
    }
    if method != Method::GET {
        return Err(GraphError::new(
            405,
            "Request_BadRequest",
            "Specified HTTP method is not allowed for the request target.",
        ));
    }
    authorize::check_roles(endpoint, token.roles.as_deref().unwrap_or_default())?;
    let call = Call {
        shared,
        tenant: &tenant,
        client_id: &token.appid,
        scenario,
        behaviour,
        query: &Query::parse(query.unwrap_or_default())?,
        pages,
    };
    let body = match &resource {
        Resource::Organization => organization(&call),
        Resource::ServicePrincipalByAppId(app_id) => service_principals::by_app_id(&call, app_id),
        Resource::ServicePrincipal(id) => service_principals::by_id(&call, id),
        Resource::AppRoleAssignments(id) => service_principals::app_role_assignments(&call, id),
        Resource::Oauth2PermissionGrants(id) => {
            service_principals::oauth2_permission_grants(&call, id)
        }
        Resource::ApplicationByAppId(app_id) => applications::by_app_id(&call, app_id),
        Resource::DeviceManagement => intune::device_management(&call),
        Resource::DeviceConfigurations => intune::device_configurations(&call),
        Resource::RoleDefinitions => intune::role_definitions(&call),
        Resource::Unknown => Err(GraphError::not_found(path)),
    }?;
    Ok(found(body, headers))
}

/// `x-ms-throttle-scope` of a refusal in this tenant alone.
fn scope_of_tenant(token: &AccessClaims, tenant: &str) -> String {
    format!("Tenant_Application/ReadWrite/{}/{tenant}", token.appid)
}

/// Counts the call against the limits of its app, in all tenants and in this one.
fn spend(
    shared: &Simulated,
    tenant: &str,
    token: &AccessClaims,
    endpoint: Endpoint,
) -> Result<(), GraphError> {
    let limits = shared.options.throttle;
    let intune = endpoint.is_intune();
    let limit = if intune {
        limits.intune
    } else {
        limits.identity
    };
    let (app, now) = (&token.appid, Instant::now());
    let mut tenants = shared.tenants();
    let refused = match tenants.spend_in_all(app, limits.application, now) {
        Some(wait) => Some((wait, format!("Application/ReadWrite/{app}"))),
        None => tenants
            .spend(tenant, app, intune, limit, now)
            .map(|wait| (wait, scope_of_tenant(token, tenant))),
    };
    match refused {
        None => Ok(()),
        Some((wait, scope)) => Err(GraphError::too_many_requests()
            .retry_after(wait)
            .scope(scope)),
    }
}

/// The `@odata.context` of an answer.
fn context(call: &Call<'_>, what: &str) -> String {
    format!("{}/v1.0/$metadata#{what}", call.shared.origin)
}

/// One object with its context, as far as `$select` wants it.
fn single(
    call: &Call<'_>,
    what: &str,
    type_name: &str,
    object: Value,
) -> Result<Value, GraphError> {
    let mut object = call.query.select(type_name, object)?;
    if let Value::Object(members) = &mut object {
        members.insert("@odata.context".to_owned(), context(call, what).into());
    }
    Ok(object)
}

fn organization(call: &Call<'_>) -> Result<Value, GraphError> {
    let strange;
    let tenant = if call.behaviour.another_directory {
        strange = directory::strange_tenant_id(call.tenant);
        &strange
    } else {
        call.tenant
    };
    let name = directory::display_name(call.scenario.name(), tenant);
    let licensed = intune::is_licensed(call.behaviour);
    let organization = directory::organization(tenant, &name, licensed);
    let organization = call
        .query
        .select("microsoft.graph.organization", organization)?;
    Ok(json!({
        "@odata.context": context(call, "organization"),
        "value": [organization],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_address_what_the_facts_say() {
        let of = Resource::of;
        assert_eq!(of("organization"), Resource::Organization);
        assert_eq!(of("organization/"), Resource::Organization);
        assert_eq!(
            of("servicePrincipals(appId='ABC')"),
            Resource::ServicePrincipalByAppId("abc".to_owned())
        );
        assert_eq!(
            of("servicePrincipals/x/appRoleAssignments"),
            Resource::AppRoleAssignments("x".to_owned())
        );
        assert_eq!(
            of("servicePrincipals/x/oauth2PermissionGrants"),
            Resource::Oauth2PermissionGrants("x".to_owned())
        );
        assert_eq!(
            of("applications(appId='ABC')"),
            Resource::ApplicationByAppId("abc".to_owned())
        );
        assert_eq!(of("servicePrincipals(appId=abc)"), Resource::Unknown);
        assert_eq!(of("deviceManagement/other"), Resource::Unknown);
        assert_eq!(of(""), Resource::Unknown);
    }
}
