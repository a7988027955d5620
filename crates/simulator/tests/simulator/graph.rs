//! The Graph calls, their permissions and their shapes.

use super::caller::{Answer, CLIENT_ID, Caller, assignments, claims};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use verifyd_simulator::{
    Endpoint, RateLimit, SIMULATED_SECRET, Scenario, SimulatorOptions, ThrottleLimits,
    graph_service_principal_id, service_principal_id,
};

const ORGANIZATION: &str =
    "/v1.0/organization?$select=id,displayName,verifiedDomains,assignedPlans";
const CONFIGURATIONS: &str = "/v1.0/deviceManagement/deviceConfigurations?$top=1&$select=id";
const ROLE_DEFINITIONS: &str = "/v1.0/deviceManagement/roleDefinitions?$top=1";
const DEVICE_MANAGEMENT: &str = "/v1.0/deviceManagement?$select=subscriptionState";

fn own_principal() -> String {
    format!(
        "/v1.0/servicePrincipals(appId='{CLIENT_ID}')?$select=id,accountEnabled,appOwnerOrganizationId"
    )
}

fn members(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// Every grant, page by page, and how many pages there were.
async fn all_grants(caller: &Caller, tenant: &str) -> (Vec<Value>, usize) {
    let token = caller.token(tenant).await;
    let mut next = Some(caller.url(&assignments(tenant)));
    let (mut grants, mut pages) = (Vec::new(), 0);
    while let Some(url) = next {
        let path = url.strip_prefix(&caller.simulator.base_url);
        let path = path.unwrap_or_else(|| panic!("on another origin: {url}"));
        let body = caller.get(&token, path).await.json();
        grants.extend(body["value"].as_array().unwrap().iter().cloned());
        pages += 1;
        next = body["@odata.nextLink"].as_str().map(str::to_owned);
    }
    (grants, pages)
}

/// The names of the granted Graph roles, as a caller finds them out.
async fn granted_names(caller: &Caller, tenant: &str) -> BTreeSet<String> {
    let token = caller.token(tenant).await;
    let graph = graph_service_principal_id(tenant);
    let path = format!("/v1.0/servicePrincipals/{graph}?$select=appId,appRoles");
    let resource = caller.get(&token, &path).await.json();
    assert_eq!(resource["appId"], "00000003-0000-0000-c000-000000000000");
    let roles = resource["appRoles"].as_array().unwrap();
    assert_eq!(roles.len(), 20);
    let (grants, _) = all_grants(caller, tenant).await;
    grants
        .iter()
        .filter(|grant| grant["resourceId"] == *graph)
        .map(|grant| {
            let role = roles.iter().find(|r| r["id"] == grant["appRoleId"]);
            role.unwrap()["value"].as_str().unwrap().to_owned()
        })
        .collect()
}

async fn token_roles(caller: &Caller, tenant: &str) -> BTreeSet<String> {
    let claims = claims(&caller.token(tenant).await);
    serde_json::from_value(claims["roles"].clone()).unwrap()
}

#[tokio::test]
async fn the_organization_is_the_tenant_and_only_what_is_selected() {
    let caller = Caller::new().await;
    let answer = caller.ask(Scenario::Healthy, ORGANIZATION).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let organization = &body["value"][0];
    assert_eq!(organization["id"], *Scenario::Healthy.tenant_id(0));
    assert_eq!(
        members(organization),
        BTreeSet::from(["assignedPlans", "displayName", "id", "verifiedDomains"])
    );
    let whole = caller.ask(Scenario::Healthy, "/v1.0/organization").await;
    assert!(members(&whole.json()["value"][0]).contains("tenantType"));
    let unknown = caller
        .ask(Scenario::Healthy, "/v1.0/organization?$select=id,shoeSize")
        .await;
    assert_eq!(
        (unknown.status, unknown.graph_code()),
        (400, "BadRequest".into())
    );
    assert!(unknown.text.contains("shoeSize"));
}

#[tokio::test]
async fn answers_carry_the_ids_of_the_request() {
    let caller = Caller::new().await;
    let token = caller.token(&Scenario::Healthy.tenant_id(0)).await;
    let client_request = "7d1d6a57-38d0-4d44-b6e3-1f5a0a4f6c10";
    for (path, status) in [("/v1.0/organization", 200), ("/v1.0/nothing", 400)] {
        let request = caller
            .http
            .get(caller.url(path))
            .bearer_auth(&token)
            .header("client-request-id", client_request);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("client-request-id"), client_request);
        assert!(uuid::Uuid::parse_str(answer.header("request-id")).is_ok());
        assert!(answer.header("date").ends_with("GMT"));
        assert!(
            answer
                .header("content-type")
                .starts_with("application/json")
        );
        if status == 400 {
            let inner = &answer.json()["error"]["innerError"];
            assert_eq!(inner["request-id"], answer.header("request-id"));
            assert_eq!(inner["client-request-id"], client_request);
            assert!(inner["date"].is_string());
        }
    }
}

#[tokio::test]
async fn only_this_simulators_fresh_tokens_are_accepted() {
    let caller = Caller::new().await;
    let other = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(0);
    let good = caller.token(&tenant).await;
    let foreign = other.token(&tenant).await;
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{signed}.{first}{}", &signature[1..]);
    for token in ["", "nonsense", "EwSim", "EwSim!!", &foreign, &tampered] {
        let answer = caller.get(token, ORGANIZATION).await;
        assert_eq!(answer.status, 401, "{token}");
        assert_eq!(answer.graph_code(), "InvalidAuthenticationToken");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let without = caller.http.get(caller.url(ORGANIZATION)).send().await;
    assert_eq!(without.unwrap().status(), 401);
    assert_eq!(caller.get(&good, ORGANIZATION).await.status, 200);
    caller.clock.put_forward(TimeDelta::seconds(3_599));
    let expired = caller.get(&good, ORGANIZATION).await;
    assert_eq!(expired.graph_code(), "InvalidAuthenticationToken");
    assert!(expired.text.contains("expired"));
}

#[tokio::test]
async fn grants_and_token_name_the_same_roles() {
    let caller = Caller::new().await;
    for scenario in [Scenario::Healthy, Scenario::HealthyReadWrite] {
        let tenant = scenario.tenant_id(1);
        let names = granted_names(&caller, &tenant).await;
        assert_eq!(names, token_roles(&caller, &tenant).await);
        let writes = names.contains("DeviceManagementConfiguration.ReadWrite.All");
        let reads = names.contains("DeviceManagementConfiguration.Read.All");
        assert_eq!(
            (writes, reads),
            match scenario {
                Scenario::Healthy => (false, true),
                _ => (true, false),
            }
        );
    }
}

#[tokio::test]
async fn many_grants_come_in_pages_and_graphs_come_last() {
    let caller = Caller::new().await;
    let tenant = Scenario::HealthyManyGrants.tenant_id(0);
    let (grants, pages) = all_grants(&caller, &tenant).await;
    assert_eq!((grants.len(), pages), (262, 3));
    let ids: BTreeSet<_> = grants.iter().map(|g| g["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 262);
    let graph = graph_service_principal_id(&tenant);
    assert!(grants[..200].iter().all(|g| g["resourceId"] != *graph));
    assert_eq!(granted_names(&caller, &tenant).await.len(), 12);

    let token = caller.token(&tenant).await;
    let other = grants[0]["resourceId"].as_str().unwrap();
    let path = format!("/v1.0/servicePrincipals/{other}?$select=appId,appRoles");
    let resource = caller.get(&token, &path).await.json();
    let roles = resource["appRoles"].as_array().unwrap();
    assert!(roles.iter().any(|r| r["id"] == grants[0]["appRoleId"]));

    let top = caller
        .get(&token, &format!("{}?$top=5", assignments(&tenant)))
        .await
        .json();
    assert_eq!(top["value"].as_array().unwrap().len(), 5);
    assert!(top["@odata.nextLink"].as_str().unwrap().contains("top=5"));
}

/// What each scenario opens and refuses, by status and code.
#[tokio::test]
async fn every_call_is_answered_as_the_scenario_says() {
    const DENIED: &str = "Authorization_RequestDenied";
    const GONE: &str = "Request_ResourceNotFound";
    const NOBODY: &str = "Authorization_IdentityNotFound";
    const NO_TOKEN: &str = "InvalidAuthenticationToken";
    const INTUNE: &str = DEVICE_MANAGEMENT;
    let caller = Caller::new().await;
    let own = own_principal();
    let of_token = assignments(&Scenario::InventoryFromToken.tenant_id(0));
    let stranger = service_principal_id(&Scenario::Healthy.tenant_id(1), CLIENT_ID);
    let by_id = format!("/v1.0/servicePrincipals/{stranger}");
    let grants = format!("{by_id}/appRoleAssignments");
    let by_app_id = format!("/v1.0/servicePrincipals(appId='{stranger}')");
    for (scenario, path, status, code) in [
        (Scenario::Healthy, &*by_id, 404, GONE),
        (Scenario::Healthy, &grants, 404, GONE),
        (Scenario::Healthy, &by_app_id, 404, GONE),
        (Scenario::HealthyOpaqueToken, ORGANIZATION, 200, ""),
        (
            Scenario::PermissionDeniedIdentity,
            ORGANIZATION,
            403,
            DENIED,
        ),
        (Scenario::PermissionDeniedIdentity, &own, 200, ""),
        (Scenario::InventoryFromToken, &own, 403, DENIED),
        (Scenario::InventoryFromToken, &of_token, 403, DENIED),
        (Scenario::InventoryFromToken, ORGANIZATION, 200, ""),
        (Scenario::InventoryUnreadable, &own, 403, DENIED),
        (Scenario::InventoryUnreadable, ORGANIZATION, 200, ""),
        (Scenario::ServicePrincipalMissing, ORGANIZATION, 401, NOBODY),
        (Scenario::ServicePrincipalMissing, &own, 401, NOBODY),
        (Scenario::ServicePrincipalMissing, INTUNE, 401, NOBODY),
        (Scenario::ConsentPropagating, &own, 404, GONE),
        (Scenario::ConsentPropagating, ORGANIZATION, 200, ""),
        (Scenario::PermissionNotEffective, INTUNE, 403, "Forbidden"),
        (Scenario::PermissionNotEffective, ROLE_DEFINITIONS, 200, ""),
        (Scenario::IdentityMismatchToken, ORGANIZATION, 401, NO_TOKEN),
        (Scenario::TokenRejected, ORGANIZATION, 401, NO_TOKEN),
        (
            Scenario::GraphUnknown,
            ORGANIZATION,
            400,
            "Directory_Undocumented",
        ),
        (
            Scenario::ProviderUnavailable,
            ORGANIZATION,
            503,
            "ServiceUnavailable",
        ),
    ] {
        let answer = caller.ask(scenario, path).await;
        let found = match answer.status {
            200 => String::new(),
            _ => answer.graph_code(),
        };
        assert_eq!(
            (answer.status, &*found),
            (status, code),
            "{scenario}: {path}"
        );
    }
}

#[tokio::test]
async fn addresses_may_be_percent_encoded() {
    let caller = Caller::new().await;
    let path = own_principal().replace('\'', "%27").replace('(', "%28");
    let answer = caller.ask(Scenario::Healthy, &path).await;
    let tenant = Scenario::Healthy.tenant_id(0);
    assert_eq!(
        answer.json()["id"],
        *service_principal_id(&tenant, CLIENT_ID)
    );
}

#[tokio::test]
async fn intune_names_the_permission_that_a_call_lacks() {
    let caller = Caller::new().await;
    for (path, permission) in [
        (DEVICE_MANAGEMENT, "DeviceManagementApps.Read.All"),
        (CONFIGURATIONS, "DeviceManagementConfiguration.Read.All"),
        (ROLE_DEFINITIONS, "DeviceManagementRBAC.Read.All"),
    ] {
        let answer = caller.ask(Scenario::PermissionDeniedIdentity, path).await;
        assert_eq!(
            (answer.status, answer.graph_code()),
            (403, "Forbidden".into())
        );
        let body = answer.json();
        let message = body["error"]["message"].as_str().unwrap();
        let nested: Value = serde_json::from_str(message).unwrap();
        let words = nested["Message"].as_str().unwrap();
        assert!(words.contains(permission), "{words}");
    }
    let posted = caller.http.post(caller.url("/v1.0/organization"));
    let token = caller.token(&Scenario::Healthy.tenant_id(0)).await;
    let posted = posted.bearer_auth(token).send().await.unwrap();
    assert_eq!(posted.status(), 405);
}

#[tokio::test]
async fn tokens_tell_what_their_scenario_lets_them_tell() {
    let caller = Caller::new().await;
    for scenario in [Scenario::HealthyOpaqueToken, Scenario::InventoryUnreadable] {
        let token = caller.token(&scenario.tenant_id(0)).await;
        assert!(!token.contains('.'), "{scenario}: {token}");
    }
    let tenant = Scenario::ServicePrincipalMissing.tenant_id(0);
    let nobodys = claims(&caller.token(&tenant).await);
    assert_eq!((nobodys.get("oid"), nobodys.get("roles")), (None, None));
    let tenant = Scenario::IdentityMismatchToken.tenant_id(0);
    assert_ne!(claims(&caller.token(&tenant).await)["tid"], *tenant);
    let roles = token_roles(&caller, &Scenario::InventoryFromToken.tenant_id(0)).await;
    assert!(!roles.contains("Application.Read.All") && roles.len() == 10);
    let roles = token_roles(&caller, &Scenario::PermissionNotEffective.tenant_id(0)).await;
    assert!(roles.contains("DeviceManagementApps.Read.All"));
}

#[tokio::test]
async fn a_fresh_grant_is_assigned_before_the_token_names_it() {
    let caller = Caller::new().await;
    let tenant = Scenario::PermissionPropagating.tenant_id(0);
    let assigned = granted_names(&caller, &tenant).await;
    let named = token_roles(&caller, &tenant).await;
    let difference: Vec<_> = assigned.symmetric_difference(&named).collect();
    assert_eq!(difference, ["Application.Read.All"]);
    assert!(assigned.contains("Application.Read.All"));
}

#[tokio::test]
async fn missing_permissions_are_missing_in_both() {
    let caller = Caller::new().await;
    let healthy = granted_names(&caller, &Scenario::Healthy.tenant_id(0)).await;
    for (scenario, missing) in [
        (Scenario::PermissionMissing, "Policy.Read.All"),
        (
            Scenario::PermissionMissingOptional,
            "DeviceManagementServiceConfig.Read.All",
        ),
        (
            Scenario::PermissionMissingIntune,
            "DeviceManagementConfiguration.Read.All",
        ),
    ] {
        let tenant = scenario.tenant_id(0);
        let granted = granted_names(&caller, &tenant).await;
        let difference: Vec<_> = healthy.symmetric_difference(&granted).collect();
        assert_eq!(difference, [missing], "{scenario}");
        assert_eq!(granted, token_roles(&caller, &tenant).await);
    }
}

#[tokio::test]
async fn another_directory_answers() {
    let caller = Caller::new().await;
    let answer = caller.ask(Scenario::IdentityMismatch, ORGANIZATION).await;
    let body = answer.json();
    let id = body["value"][0]["id"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok());
    assert_ne!(id, Scenario::IdentityMismatch.tenant_id(0));
}

#[tokio::test]
async fn a_disabled_service_principal_says_so() {
    let caller = Caller::new().await;
    for (scenario, enabled) in [
        (Scenario::Healthy, true),
        (Scenario::AppDisabledInDirectory, false),
    ] {
        let body = caller.ask(scenario, &own_principal()).await.json();
        assert_eq!(body["accountEnabled"], enabled);
        assert_eq!(
            members(&body),
            BTreeSet::from([
                "@odata.context",
                "accountEnabled",
                "appOwnerOrganizationId",
                "id"
            ])
        );
    }
}

#[tokio::test]
async fn intune_tells_of_its_subscription() {
    let caller = Caller::new().await;
    for (scenario, state) in [
        (Scenario::HealthyIntune, "active"),
        (Scenario::IntuneInactive, "disabled"),
        (Scenario::IntuneInactiveSoon, "warning"),
    ] {
        let body = caller.ask(scenario, DEVICE_MANAGEMENT).await.json();
        assert_eq!(body["subscriptionState"], state);
        for path in [CONFIGURATIONS, ROLE_DEFINITIONS] {
            let body = caller.ask(scenario, path).await.json();
            let items = body["value"].as_array().unwrap();
            assert_eq!(items.len(), 1);
            assert!(items[0]["id"].is_string());
        }
    }
    for path in [DEVICE_MANAGEMENT, CONFIGURATIONS, ROLE_DEFINITIONS] {
        let answer = caller.ask(Scenario::IntuneNotLicensed, path).await;
        assert_eq!(answer.status, 400);
        let body = answer.json();
        let message = body["error"]["message"].as_str().unwrap();
        let nested: Value = serde_json::from_str(message).unwrap();
        let words = nested["Message"].as_str().unwrap();
        assert!(words.starts_with("Request not applicable to target tenant"));
    }
}

#[tokio::test]
async fn an_app_has_a_limit_in_all_its_tenants() {
    let window = std::time::Duration::from_secs(600);
    let options = SimulatorOptions {
        throttle: ThrottleLimits {
            identity: RateLimit { calls: 2, window },
            application: RateLimit { calls: 3, window },
            ..ThrottleLimits::default()
        },
        ..SimulatorOptions::default()
    };
    let caller = Caller::with(options).await;
    let scope = async |tenant: u32| {
        let token = caller.token(&Scenario::Healthy.tenant_id(tenant)).await;
        let answer = caller.get(&token, ORGANIZATION).await;
        let scope = answer.header("x-ms-throttle-scope");
        let scope = scope.split('/').next().unwrap_or_default().to_owned();
        (answer.status, scope)
    };
    assert_eq!(scope(1).await, (200, String::new()));
    assert_eq!(scope(1).await, (200, String::new()));
    assert_eq!(scope(1).await, (429, "Tenant_Application".to_owned()));
    // What a tenant's own limit refuses counts, too.
    assert_eq!(scope(2).await, (429, "Application".to_owned()));
    assert_eq!(caller.simulator.throttled(), 2);
}

#[tokio::test]
async fn limits_hold_per_app_and_service() {
    let window = std::time::Duration::from_secs(600);
    let options = SimulatorOptions {
        throttle: ThrottleLimits {
            identity: RateLimit { calls: 2, window },
            intune: RateLimit { calls: 1, window },
            ..ThrottleLimits::default()
        },
        ..SimulatorOptions::default()
    };
    let caller = Caller::with(options).await;
    let tenant = Scenario::Healthy.tenant_id(0);
    let token = caller.token(&tenant).await;
    let status = async |token: &str, path: &str| caller.get(token, path).await.status;
    assert_eq!(status(&token, ORGANIZATION).await, 200);
    assert_eq!(status(&token, ORGANIZATION).await, 200);
    let above = caller.get(&token, &own_principal()).await;
    assert_eq!(
        (above.status, above.graph_code()),
        (429, "TooManyRequests".into())
    );
    let wait: u64 = above.header("retry-after").parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(status(&token, DEVICE_MANAGEMENT).await, 200);
    assert_eq!(status(&token, DEVICE_MANAGEMENT).await, 429);

    let other_app = "c1f6d1b2-61d5-4a5c-8f0d-7e6b9a3c5d01";
    let scope = caller.scope();
    let answer = caller
        .post_form(
            &tenant,
            &[
                ("client_id", other_app),
                ("scope", &scope),
                ("grant_type", "client_credentials"),
                ("client_secret", SIMULATED_SECRET),
            ],
        )
        .await;
    let body = answer.json();
    let other_token = body["access_token"].as_str().unwrap();
    assert_eq!(status(other_token, ORGANIZATION).await, 200);
    assert_eq!(
        caller.simulator.calls_of(&tenant, Endpoint::Organization),
        3
    );
    assert_eq!(
        json!(caller.simulator.calls(&tenant))["by_endpoint"]["token"],
        2
    );
}
