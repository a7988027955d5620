//! What a sound connection looks like, on the wire and in the findings.

use crate::microsoft::directory::{
    CLIENT, Directory, GRAPH_RESOURCE, HEALTH, INTUNE, OTHER_APP, Reply, SERVICE_PRINCIPAL, TENANT,
    role_id,
};
use crate::microsoft::fixture::{provider, run, target};
use serde_json::json;
use verifyd::domain::permission::{InventorySource, PermissionStatus};
use verifyd::domain::report::CheckStatus;
use verifyd::domain::{TenantId, WorkspaceId};
use verifyd::ports::provider::Disposition;

#[tokio::test]
async fn every_check_passes_and_the_inventory_is_read_page_by_page() {
    let directory = Directory::start(INTUNE).await;
    let provider = provider(&directory);
    let found = run(&provider, &target("intune")).await;
    assert_eq!(found.with(CheckStatus::Pass).len(), found.0.checks.len());
    assert!(found.0.healthy);
    assert_eq!(found.0.disposition, Disposition::Finished);
    // Eight on Graph and two elsewhere, two on a page.
    assert_eq!(directory.count("assignments"), 5);
    let inventory = found.0.inventory.unwrap();
    assert_eq!(inventory.source, InventorySource::AppRoleAssignments);
    assert_eq!(inventory.tenant_id, TenantId(9));
    assert_eq!(inventory.workspace_id, Some(WorkspaceId(8)));
    let keys: Vec<&str> = inventory.entries.keys().map(String::as_str).collect();
    let foreign = format!("{OTHER_APP}/Directory.Read.All");
    let mut expected: Vec<&str> = INTUNE.to_vec();
    expected.push(&foreign);
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let rbac = &inventory.entries["DeviceManagementRBAC.Read.All"];
    assert_eq!(rbac.status, PermissionStatus::Granted);
    assert!(rbac.details.required);
    assert!(!inventory.entries[&foreign].details.required);
}

#[tokio::test]
async fn the_requests_are_what_microsoft_documents() {
    let directory = Directory::start(INTUNE).await;
    run(&provider(&directory), &target("intune")).await;
    let token = &directory.seen("token")[0];
    assert_eq!(token.method, "POST");
    assert_eq!(token.uri.path(), format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(
        token.headers["content-type"],
        "application/x-www-form-urlencoded"
    );
    let scope = format!("{}/.default", directory.base());
    for (field, value) in [
        ("client_id", CLIENT),
        ("scope", &scope),
        ("grant_type", "client_credentials"),
        ("client_secret", "canary-secret-value"),
    ] {
        assert_eq!(token.form[field], value, "{field}");
    }
    assert_eq!(token.form.len(), 4);
    let paths = |call: &str| directory.seen(call)[0].uri.to_string();
    assert_eq!(
        paths("organization"),
        "/v1.0/organization?$select=id,displayName,verifiedDomains,assignedPlans"
    );
    assert_eq!(
        paths("service_principal"),
        format!(
            "/v1.0/servicePrincipals(appId='{CLIENT}')?$select=id,accountEnabled,appOwnerOrganizationId"
        )
    );
    assert_eq!(
        paths("assignments"),
        format!("/v1.0/servicePrincipals/{SERVICE_PRINCIPAL}/appRoleAssignments")
    );
    assert_eq!(
        paths("/v1.0/deviceManagement/deviceConfigurations"),
        "/v1.0/deviceManagement/deviceConfigurations?$top=1&$select=id"
    );
    for call in ["token", "organization", "assignments"] {
        for seen in directory.seen(call) {
            assert_eq!(
                seen.headers["client-request-id"],
                "00000000-0000-0000-0000-0000000000c0"
            );
            assert!(!seen.headers.contains_key("accept-encoding"));
        }
    }
}

#[tokio::test]
async fn names_of_roles_are_kept_until_a_new_one_appears() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    for _ in 0..3 {
        assert!(run(&provider, &target("health_check")).await.0.healthy);
    }
    assert_eq!(directory.count("resource"), 2, "one for each resource");
    let new = json!({"value": [{
        "appRoleId": "0e0e0e0e-0000-4000-8000-000000000009",
        "resourceId": GRAPH_RESOURCE,
    }]});
    directory.answer("assignments", Reply::json(200, &new));
    run(&provider, &target("health_check")).await;
    assert_eq!(directory.count("resource"), 3);
}

/// A listing of one page, which is remembered.
fn listing(names: &[&str]) -> Reply {
    let all: Vec<serde_json::Value> = names
        .iter()
        .map(|name| json!({"appRoleId": role_id(name), "resourceId": GRAPH_RESOURCE}))
        .collect();
    Reply::json(200, &json!({ "value": all }))
}

#[tokio::test]
async fn what_was_read_before_counts_only_as_long_as_it_is_the_same() {
    const ANOTHER: &str = "0a0a0a0a-0000-4000-8000-00000000000a";
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    directory.answer("assignments", listing(HEALTH));
    let first = run(&provider, &target("health_check")).await;
    let second = run(&provider, &target("health_check")).await;
    assert!(second.0.healthy);
    assert_eq!(second.0.inventory, first.0.inventory);
    assert_eq!(second.0.checks, first.0.checks);
    assert_eq!(directory.count("assignments"), 2, "it is asked each time");

    directory.answer("assignments", listing(&HEALTH[..2]));
    let fewer = run(&provider, &target("health_check"))
        .await
        .0
        .inventory
        .unwrap();
    let gone = &fewer.entries["Directory.Read.All"];
    assert_eq!(gone.status, PermissionStatus::Missing);

    // The application was removed and added again.
    directory.script(|seen| match seen.call.as_str() {
        "service_principal" => Some(Reply::json(
            200,
            &json!({"id": ANOTHER, "accountEnabled": true}),
        )),
        "assignments" if seen.uri.path().contains(ANOTHER) => Some(listing(HEALTH)),
        "assignments" => Some(Reply::graph_error(404, "Request_ResourceNotFound", "gone")),
        _ => None,
    });
    for _ in 0..2 {
        let added = run(&provider, &target("health_check")).await;
        assert!(added.0.healthy);
        assert_eq!(added.0.inventory, first.0.inventory);
    }
    let asked: Vec<String> = directory
        .seen("assignments")
        .iter()
        .skip(3)
        .map(|seen| seen.uri.path().split('/').nth(3).unwrap().to_owned())
        .collect();
    assert_eq!(asked, [SERVICE_PRINCIPAL, ANOTHER, ANOTHER]);
}
