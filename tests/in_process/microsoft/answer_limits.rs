//! Answers that must not be believed, followed or waited for.

use crate::microsoft::directory::{Directory, HEALTH, Reply, Rest};
use crate::microsoft::fixture::{provider, provider_with, run, settings, target};
use serde_json::json;
use std::time::Duration;
use test_support::{own_process, test_name};
use verifyd::domain::Reason;
use verifyd::domain::report::{CheckStatus, EvidenceKind};

const AUTHENTICATION: &str = "provider.authentication";
const IDENTITY: &str = "provider.identity";
const INVENTORY: &str = "permissions.inventory";

/// The reason with which `key` fails when `call` is answered with this.
async fn reason(call: &'static str, key: &str, reply: Reply) -> Reason {
    let directory = Directory::start(HEALTH).await;
    directory.answer(call, reply);
    let found = run(&provider(&directory), &target("health_check")).await;
    let (status, reason) = found.status(key);
    assert_eq!(status, CheckStatus::Fail);
    assert_eq!(found.evidence(key, EvidenceKind::Host), ["127.0.0.1"]);
    reason.unwrap()
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let elsewhere = Directory::start(HEALTH).await;
    for (call, key) in [("token", AUTHENTICATION), ("organization", IDENTITY)] {
        for status in [301, 302, 303, 307, 308] {
            let reply = Reply::json(status, &json!({})).header("location", elsewhere.base());
            assert_eq!(reason(call, key, reply).await, Reason::RedirectRefused);
        }
    }
    assert_eq!(elsewhere.count("/"), 0);
}

#[tokio::test]
async fn the_next_page_is_asked_of_graph_only() {
    let elsewhere = Directory::start(HEALTH).await;
    for link in [
        format!("{}/v1.0/x", elsewhere.base()),
        "https://graph.microsoft.com/v1.0/x".into(),
    ] {
        let reply = Reply::json(200, &json!({"value": [], "@odata.nextLink": link}));
        assert_eq!(
            reason("assignments", INVENTORY, reply).await,
            Reason::RedirectRefused
        );
    }
    assert_eq!(elsewhere.count("/v1.0/x"), 0);
}

#[tokio::test]
async fn an_application_with_roles_on_too_many_resources_is_not_followed() {
    for (resources, is_too_many) in [(50, false), (51, true)] {
        let directory = Directory::start(HEALTH).await;
        let assignments: Vec<_> = (1..=resources)
            .map(|n| {
                let id = uuid::Uuid::from_u128(n);
                json!({"appRoleId": id, "resourceId": id})
            })
            .collect();
        directory.answer(
            "assignments",
            Reply::json(200, &json!({"value": assignments})),
        );
        let found = run(&provider(&directory), &target("health_check")).await;
        let (_, reason) = found.status(INVENTORY);
        let is_refused = reason == Some(Reason::ResponseTooLarge);
        assert_eq!(is_refused, is_too_many, "{reason:?}");
    }
}

#[tokio::test]
async fn silence_ends_at_the_limits() {
    let directory = Directory::start(HEALTH).await;
    let mut settings = settings(directory.base(), directory.base());
    settings.request_timeout = Duration::from_secs(5);
    let timeout = (CheckStatus::Fail, Some(Reason::ProviderTimeout));
    let begun = || Reply::text(200, "application/json", "{\"value\":");
    // Nothing at all; a body that stops in the middle; one that is never silent for long, and never done.
    for (what, reply) in [
        ("silent", begun().after(Duration::from_secs(600))),
        ("stops", begun().then(Rest::Nothing)),
        ("trickles", begun().then(Rest::Blanks)),
    ] {
        directory.answer("organization", reply);
        let found = run(&provider_with(&settings), &target("health_check")).await;
        assert_eq!(found.status(IDENTITY), timeout, "{what}");
    }
    // The run's deadline ends a call that may take longer, and the other findings are kept.
    settings.request_timeout = Duration::from_secs(600);
    directory.answer("organization", begun().after(Duration::from_secs(600)));
    let mut target = target("health_check");
    target.deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let found = run(&provider_with(&settings), &target).await;
    let late = (CheckStatus::Fail, Some(Reason::DeadlineExceeded));
    assert_eq!(found.status(IDENTITY), late);
}

#[tokio::test]
async fn private_addresses_are_never_called() {
    for login in [
        "https://10.0.0.1",
        "https://169.254.169.254",
        "https://[fd00::1]",
    ] {
        let mut settings = settings(login, "https://graph.example.com");
        settings.request_timeout = Duration::from_secs(480);
        let started = std::time::Instant::now();
        let found = run(&provider_with(&settings), &target("health_check")).await;
        let unreachable = (CheckStatus::Fail, Some(Reason::ProviderUnreachable));
        assert_eq!(found.status(AUTHENTICATION), unreachable, "{login}");
        // Refused, not tried until the limit for connecting.
        assert!(started.elapsed() < Duration::from_secs(100), "{login}");
    }
}

/// Runs one of this file's tests again, as on a machine without any trusted root certificate.
#[test]
fn a_machine_without_root_certificates_still_reaches_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("none.pem");
    std::fs::write(&empty, "").unwrap();
    own_process::entered(
        test_name!(localhost_works_by_name),
        &[
            ("SSL_CERT_FILE", empty.as_os_str()),
            ("SSL_CERT_DIR", folder.path().as_os_str()),
        ],
    );
}

#[tokio::test]
async fn localhost_works_by_name() {
    let directory = Directory::start(HEALTH).await;
    let by_name = directory.base().replace("127.0.0.1", "localhost");
    // Links to further pages would name the address, which is another origin.
    directory.answer("assignments", Reply::json(200, &json!({"value": []})));
    let found = run(
        &provider_with(&settings(&by_name, &by_name)),
        &target("health_check"),
    )
    .await;
    assert_eq!(found.check(AUTHENTICATION).status, CheckStatus::Pass);
    assert_eq!(found.check(IDENTITY).status, CheckStatus::Pass);
}
