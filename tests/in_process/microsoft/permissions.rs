//! The inventory, its fallbacks, and what the required permissions come out as.

use crate::microsoft::directory::{Directory, HEALTH, INTUNE, OTHER_RESOURCE, Reply};
use crate::microsoft::fixture::{provider, run, target};
use serde_json::json;
use verifyd::domain::Reason;
use verifyd::domain::permission::{InventorySource, PermissionStatus};
use verifyd::domain::report::{CheckStatus, EvidenceKind};

const INVENTORY: &str = "permissions.inventory";

fn without(all: &[&'static str], gone: &str) -> Vec<&'static str> {
    all.iter().copied().filter(|name| *name != gone).collect()
}

#[tokio::test]
async fn a_missing_permission_spares_its_probe_and_is_no_broken_connection() {
    // With an opaque token the probes wait for the inventory.
    for opaque in [false, true] {
        let gone = "DeviceManagementRBAC.Read.All";
        let directory = Directory::start(&without(INTUNE, gone)).await;
        directory.change(|facts| facts.opaque = opaque);
        let found = run(&provider(&directory), &target("intune")).await;
        assert!(found.0.healthy, "{opaque}");
        assert_eq!(found.check(INVENTORY).status, CheckStatus::Pass, "{opaque}");
        let service = found.check("intune.service").status;
        assert_eq!(service, CheckStatus::Pass, "{opaque}");
        let spared = (CheckStatus::Skip, Some(Reason::NotEvaluated));
        assert_eq!(found.status("intune.rbac"), spared, "{opaque}");
        let asked = directory.count("/v1.0/deviceManagement/roleDefinitions");
        assert_eq!(asked, 0, "{opaque}");
        let entries = found.0.inventory.unwrap().entries;
        assert_eq!(entries[gone].status, PermissionStatus::Missing, "{opaque}");
    }
}

#[tokio::test]
async fn a_role_of_another_resource_is_not_graphs() {
    // The directory grants a role named Directory.Read.All on another resource, always.
    let directory = Directory::start(&without(HEALTH, "Directory.Read.All")).await;
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.check("permissions.directory_read_all").status,
        CheckStatus::Fail
    );
}

#[tokio::test]
async fn a_token_from_an_earlier_check_does_not_hide_a_new_grant() {
    let late = "DeviceManagementRBAC.Read.All";
    let directory = Directory::start(&without(INTUNE, late)).await;
    let provider = provider(&directory);
    let before = run(&provider, &target("intune")).await;
    assert_eq!(before.check("intune.rbac").status, CheckStatus::Skip);
    directory.change(|facts| facts.granted = INTUNE.to_vec());
    let after = run(&provider, &target("intune")).await;
    assert_eq!(after.check(INVENTORY).status, CheckStatus::Pass);
    assert_eq!(after.check("intune.rbac").status, CheckStatus::Pass);
    assert_eq!(directory.count("token"), 2);
}

#[tokio::test]
async fn a_call_that_an_old_token_may_not_make_is_tried_with_a_new_one() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    run(&provider, &target("health_check")).await;
    let old = directory.seen("organization")[0].headers["authorization"].clone();
    directory
        .script(move |seen| (seen.headers.get("authorization") == Some(&old)).then(Reply::denied));
    let found = run(&provider, &target("health_check")).await;
    assert_eq!(found.with(CheckStatus::Pass).len(), found.0.checks.len());
    // Two calls were refused at the same time: one new token serves both.
    assert_eq!(directory.count("token"), 2);
    directory.answer("organization", Reply::denied());
    let found = run(&provider, &target("health_check")).await;
    assert_eq!(
        found.status("provider.identity"),
        (CheckStatus::Warn, Some(Reason::PermissionNotEffective))
    );
    assert_eq!(directory.count("token"), 3);
}

#[tokio::test]
async fn an_empty_list_beside_a_new_token_with_roles_is_propagating() {
    let directory = Directory::start(INTUNE).await;
    directory.answer("assignments", Reply::json(200, &json!({"value": []})));
    let found = run(&provider(&directory), &target("intune")).await;
    assert!(found.0.healthy);
    assert_eq!(found.with(CheckStatus::Fail), [] as [&str; 0]);
    let propagating = (CheckStatus::Warn, Some(Reason::PermissionPropagating));
    assert_eq!(found.status(INVENTORY), propagating);
    let key = "permissions.device_management_rbac_read_all";
    assert_eq!(found.status(key), propagating);
    assert_eq!(found.check("intune.rbac").status, CheckStatus::Pass);
    let inventory = found.0.inventory.unwrap();
    assert_eq!(inventory.source, InventorySource::TokenRoles);
    let granted = &inventory.entries["DeviceManagementRBAC.Read.All"];
    assert_eq!(granted.status, PermissionStatus::Granted);
}

#[tokio::test]
async fn a_resource_that_is_gone_does_not_matter() {
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| {
        let gone = || Reply::graph_error(404, "Request_ResourceNotFound", "gone");
        seen.uri.path().ends_with(OTHER_RESOURCE).then(gone)
    });
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(found.check(INVENTORY).status, CheckStatus::Pass);
    assert_eq!(found.evidence(INVENTORY, EvidenceKind::Count), ["3"]);
}

#[tokio::test]
async fn an_inventory_that_cannot_be_read_now_fails_with_its_own_reason() {
    let directory = Directory::start(HEALTH).await;
    directory.answer("assignments", Reply::graph_error(502, "UnknownError", ""));
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(INVENTORY),
        (CheckStatus::Fail, Some(Reason::ProviderUnavailable))
    );
    assert!(found.0.inventory.is_none(), "the last known one is kept");
}
