//! Whose directory is it, and is the application at home there?

use crate::microsoft::directory::{Directory, HEALTH, INTUNE, Reply, Seen, jwt, token_reply};
use crate::microsoft::fixture::{provider, run, target};
use serde_json::json;
use verifyd::domain::Reason;
use verifyd::domain::report::{CheckStatus, EvidenceKind};

const IDENTITY: &str = "provider.identity";
const OTHER: &str = "99999999-2222-4333-8444-555555555555";

#[tokio::test]
async fn a_token_of_another_directory_is_never_used() {
    let directory = Directory::start(HEALTH).await;
    let token = jwt(&json!({"tid": OTHER, "roles": []}));
    directory.answer("token", token_reply(&token));
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Fail, Some(Reason::IdentityMismatch))
    );
    assert_eq!(directory.count("organization"), 0);
    assert_eq!(directory.count("service_principal"), 0);
}

/// Answers to the calls that a directory gives to an application that it does not know.
fn unknown_to(seen: &Seen, calls: &[&str]) -> Option<Reply> {
    let is_concerned = calls.contains(&seen.call.as_str());
    is_concerned.then(|| match seen.call.as_str() {
        "service_principal" => Reply::graph_error(404, "Request_ResourceNotFound", "gone"),
        _ => Reply::graph_error(401, "Authorization_IdentityNotFound", "who?"),
    })
}

const CONNECTION: &[&str] = &["organization", "service_principal", "assignments"];

#[tokio::test]
async fn a_service_principal_that_is_gone_is_missing_at_once() {
    let directory = Directory::start(INTUNE).await;
    directory.change(|facts| facts.in_token = Some(Vec::new()));
    directory.script(|seen| unknown_to(seen, CONNECTION));
    let mut target = target("intune");
    let found = run(&provider(&directory), &target).await;
    let missing = (CheckStatus::Fail, Some(Reason::ServicePrincipalMissing));
    assert_eq!(found.status(IDENTITY), missing);
    let asked = directory.count("service_principal");
    assert!(asked <= 2, "{asked}");

    // A connection of just now is waited for, with a new token each time.
    target.connection.created_at = Some("2025-12-31T23:59:00Z".parse().unwrap());
    let (before, tokens) = (asked, directory.count("token"));
    let found = run(&provider(&directory), &target).await;
    assert_eq!(found.status(IDENTITY), missing);
    assert_eq!(found.evidence(IDENTITY, EvidenceKind::Attempts), ["4"]);
    assert!(directory.count("service_principal") >= before + 4);
    assert!(directory.count("token") >= tokens + 4);
}

/// The token of an earlier check says that the application was there.
#[tokio::test]
async fn a_new_sign_in_decides_whether_the_service_principal_is_gone() {
    let directory = Directory::start(INTUNE).await;
    let provider = provider(&directory);
    assert!(run(&provider, &target("intune")).await.0.healthy);
    directory.script(|seen| match seen.call.as_str() {
        "token" => Some(Reply::token_error(401, "invalid_client", 7000229)),
        _ => unknown_to(seen, &["service_principal"]),
    });
    let found = run(&provider, &target("intune")).await;
    assert_eq!(
        found.status("provider.authentication"),
        (CheckStatus::Fail, Some(Reason::ServicePrincipalMissing))
    );
    assert_eq!(directory.count("token"), 2);
}
