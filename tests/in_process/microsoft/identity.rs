//! Whose directory is it, and is the application at home there?

use crate::microsoft::directory::{Directory, HEALTH, INTUNE, Reply, TENANT, token, token_reply};
use crate::microsoft::fixture::{provider, run, target};
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
    assert_eq!(found.with(CheckStatus::Skip).len(), 7);
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
    let directory = Directory::start(&["Application.Read.All"]).await;
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
async fn a_refusal_in_spite_of_the_permission_never_asks_to_grant_it() {
    for reply in [
        Reply::graph_error(403, "UnknownError", ""),
        Reply::graph_error(403, "Forbidden", "{\"Message\": \"no\"}"),
        Reply::graph_error(403, "accessDenied", "no"),
        Reply::denied(),
    ] {
        let directory = Directory::start(HEALTH).await;
        directory.script(move |seen| (seen.call == "organization").then(|| reply.clone()));
        let found = run(&provider(&directory), &target("health_check")).await;
        assert!(found.0.healthy);
        assert_eq!(
            found.status(IDENTITY),
            (CheckStatus::Warn, Some(Reason::PermissionNotEffective))
        );
        let steps = &found.check(IDENTITY).next_steps;
        assert!(steps.iter().all(|step| !step.label.contains("Grant")));
    }
}

#[tokio::test]
async fn a_refusal_of_a_permission_that_is_not_in_the_token_yet_is_propagating() {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| facts.in_token = Some(vec!["Application.Read.All"]));
    directory.script(|seen| (seen.call == "organization").then(Reply::denied));
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(
        found.status(IDENTITY),
        (CheckStatus::Warn, Some(Reason::PermissionPropagating))
    );
}

#[tokio::test]
async fn an_identity_that_nothing_proves_fails() {
    for (granted, reason) in [
        (HEALTH, Reason::PermissionNotEffective),
        (&["Application.Read.All"], Reason::PermissionDenied),
    ] {
        let directory = Directory::start(granted).await;
        directory.change(|facts| facts.opaque = true);
        directory.script(|seen| (seen.call == "organization").then(Reply::denied));
        let found = run(&provider(&directory), &target("health_check")).await;
        assert_eq!(found.status(IDENTITY), (CheckStatus::Fail, Some(reason)));
    }
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
            Reason::ConsentPropagating,
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
        assert_eq!(found.with(CheckStatus::Skip).len(), 6, "{reason}");
        assert!(found.0.inventory.is_none());
    }
}

/// Answers to the calls that a directory gives to an application that it does not know.
fn unknown_to(
    seen: &crate::microsoft::directory::Seen,
    calls: &[&str],
    times: usize,
) -> Option<Reply> {
    let concerned = calls.contains(&seen.call.as_str()) && seen.before < times;
    concerned.then(|| match seen.call.as_str() {
        "service_principal" => Reply::graph_error(404, "Request_ResourceNotFound", "gone"),
        _ => Reply::graph_error(401, "Authorization_IdentityNotFound", "who?"),
    })
}

const CONNECTION: &[&str] = &["organization", "service_principal", "assignments"];

#[tokio::test]
async fn an_application_that_arrives_in_the_directory_is_waited_for() {
    for calls in [CONNECTION, &["service_principal"], &["organization"]] {
        let directory = Directory::start(INTUNE).await;
        directory.script(move |seen| unknown_to(seen, calls, 3));
        let found = run(&provider(&directory), &target("intune")).await;
        assert_eq!(found.with(CheckStatus::Pass).len(), found.0.checks.len());
    }
}

#[tokio::test]
async fn an_application_that_does_not_arrive_in_time_is_told_to_be_on_its_way() {
    for (calls, key) in [
        (CONNECTION, IDENTITY),
        (&["service_principal"], PRINCIPAL),
        (&["organization"], IDENTITY),
    ] {
        let directory = Directory::start(INTUNE).await;
        directory.script(move |seen| unknown_to(seen, calls, usize::MAX));
        let found = run(&provider(&directory), &target("intune")).await;
        assert_eq!(
            found.status(key),
            (CheckStatus::Fail, Some(Reason::ConsentPropagating))
        );
        assert_eq!(found.evidence(key, EvidenceKind::Attempts), ["8"]);
        let again = found.evidence(key, EvidenceKind::RetryAt);
        assert_eq!(again, ["2026-01-01T00:05:00Z"]);
    }
}

#[tokio::test]
async fn a_service_principal_that_is_gone_is_missing_at_once() {
    let directory = Directory::start(INTUNE).await;
    directory.change(|facts| facts.in_token = Some(Vec::new()));
    directory.script(|seen| unknown_to(seen, CONNECTION, usize::MAX));
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
        _ => unknown_to(seen, &["service_principal"], usize::MAX),
    });
    let found = run(&provider, &target("intune")).await;
    assert_eq!(
        found.status("provider.authentication"),
        (CheckStatus::Fail, Some(Reason::ServicePrincipalMissing))
    );
    assert_eq!(directory.count("token"), 2);
}

#[tokio::test]
async fn a_token_that_is_challenged_is_replaced_once() {
    for (times, expected) in [
        (1, (CheckStatus::Pass, None)),
        (
            usize::MAX,
            (CheckStatus::Fail, Some(Reason::ConditionalAccessBlocked)),
        ),
    ] {
        let directory = Directory::start(HEALTH).await;
        directory.script(move |seen| {
            let challenge = || {
                Reply::graph_error(401, "InvalidAuthenticationToken", "").header(
                    "www-authenticate",
                    "Bearer error=\"insufficient_claims\", claims=\"eyJhIjoxfQ==\"",
                )
            };
            (seen.call == "organization" && seen.before < times).then(challenge)
        });
        let found = run(&provider(&directory), &target("health_check")).await;
        assert_eq!(found.status(IDENTITY), expected);
        assert_eq!(directory.count("token"), 2);
    }
}
