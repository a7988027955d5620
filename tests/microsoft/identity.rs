//! Whose directory is it, and is the application at home there?

use crate::directory::{Directory, HEALTH, INTUNE, Reply, TENANT, token, token_reply};
use crate::fixture::{provider, run, target};
use serde_json::json;
use verifyd::domain::Reason;
use verifyd::domain::report::{CheckStatus, EvidenceKind};

const IDENTITY: &str = "provider.identity";
const PRINCIPAL: &str = "provider.service_principal";
const OTHER: &str = "99999999-2222-4333-8444-555555555555";

#[tokio::test]
async fn another_directory_is_never_read_any_further() {
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| {
        (seen.call == "organization").then(|| Reply::json(200, &json!({"value": [{"id": OTHER}]})))
    });
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Fail, Some(Reason::IdentityMismatch))
    );
    assert_eq!(found.evidence(IDENTITY, EvidenceKind::Expected), [TENANT]);
    assert_eq!(found.evidence(IDENTITY, EvidenceKind::Found), [OTHER]);
    assert!(found.0.inventory.is_none());
    assert_eq!(found.with(CheckStatus::Skip).len(), 6);
}

#[tokio::test]
async fn a_token_of_another_directory_is_never_used() {
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| {
        (seen.call == "token").then(|| token_reply(&token(&json!({"tid": OTHER, "roles": []}))))
    });
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Fail, Some(Reason::IdentityMismatch))
    );
    assert_eq!(directory.count("organization"), 0);
    assert_eq!(directory.count("service_principal"), 0);
}

#[tokio::test]
async fn a_missing_permission_to_read_the_organization_is_no_broken_connection() {
    let directory = Directory::start(&["Application.Read.All", "Directory.Read.All"]).await;
    directory.script(|seen| (seen.call == "organization").then(Reply::denied));
    let found = run(&provider(&directory), &target("health_check")).await;
    assert!(found.0.healthy);
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Warn, Some(Reason::PermissionDenied))
    );
    assert_eq!(
        found.evidence(IDENTITY, EvidenceKind::Permission),
        ["Organization.Read.All"]
    );
}

#[tokio::test]
async fn an_identity_that_nothing_proves_fails() {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| facts.opaque = true);
    directory.script(|seen| (seen.call == "organization").then(Reply::denied));
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Fail, Some(Reason::PermissionDenied))
    );
}

#[tokio::test]
async fn an_answer_without_a_directory_is_invalid() {
    for body in [
        json!({"value": []}),
        json!({"value": [{"id": "no guid"}]}),
        json!({"value": {}}),
        json!([]),
        json!({}),
    ] {
        let directory = Directory::start(HEALTH).await;
        let reply = Reply::json(200, &body);
        directory.script(move |seen| (seen.call == "organization").then(|| reply.clone()));
        let found = run(&provider(&directory), &target("health_check")).await;
        let expected = (CheckStatus::Fail, Some(Reason::ResponseInvalid));
        assert_eq!(found.status(IDENTITY), expected, "{body}");
    }
}

#[tokio::test]
async fn the_service_principal_must_be_there_and_enabled() {
    for (reply, reason) in [
        (
            Reply::json(200, &json!({"id": OTHER, "accountEnabled": false})),
            Reason::AppDisabled,
        ),
        (
            Reply::graph_error(404, "Request_ResourceNotFound", "gone"),
            Reason::ServicePrincipalMissing,
        ),
        (
            Reply::text(404, "text/html", "<html>"),
            Reason::ResponseInvalid,
        ),
        (Reply::json(200, &json!({})), Reason::ResponseInvalid),
    ] {
        let directory = Directory::start(HEALTH).await;
        directory.script(move |seen| (seen.call == "service_principal").then(|| reply.clone()));
        let found = run(&provider(&directory), &target("health_check")).await;
        assert_eq!(found.status(PRINCIPAL), (CheckStatus::Fail, Some(reason)));
        assert_eq!(found.check(IDENTITY).status, CheckStatus::Pass);
        assert_eq!(found.with(CheckStatus::Skip).len(), 5, "{reason}");
        assert!(found.0.inventory.is_none());
    }
}

#[tokio::test]
async fn a_token_that_graph_knows_nobody_for_names_the_missing_consent() {
    let directory = Directory::start(INTUNE).await;
    directory.script(|seen| {
        let unknown = || Reply::graph_error(401, "Authorization_IdentityNotFound", "who?");
        (seen.call != "token").then(unknown)
    });
    let found = run(&provider(&directory), &target("intune")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Fail, Some(Reason::ServicePrincipalMissing))
    );
}
