//! Why a permission is missing, and who is asked about it how often.

use crate::microsoft::directory::{Directory, HEALTH, Reply, application, jwt, token_reply};
use crate::microsoft::fixture::{Found, provider, run, target};
use serde_json::json;
use verifyd::domain::Reason;
use verifyd::domain::connection_facts::RecordedExpiry;
use verifyd::domain::report::{CheckStatus, Severity};

const OWNER: &str = "77777777-2222-4333-8444-555555555555";
const GONE: &str = "permissions.directory_read_all";

/// A directory where `Directory.Read.All` is not granted.
async fn without_it() -> Directory {
    Directory::start(&["Organization.Read.All", "Application.Read.All"]).await
}

fn reason(found: &Found) -> Reason {
    let check = found.check(GONE);
    // Why it is missing changes neither the status nor how bad it is.
    assert!(found.0.healthy);
    assert_eq!(
        (check.status, check.severity, check.blocking),
        (CheckStatus::Fail, Severity::High, false)
    );
    check.reason_code.unwrap()
}

#[tokio::test]
async fn nothing_is_explained_where_nothing_is_missing() {
    let directory = Directory::start(HEALTH).await;
    run(&provider(&directory), &target("health_check")).await;
    assert_eq!(directory.count("delegated"), 0);
    assert_eq!(directory.count("offered"), 0);
    // Only for the secret's end.
    assert_eq!(directory.count("application"), 1);
    let mut known = target("health_check");
    known.credential_expiry = RecordedExpiry::At("2027-01-01T00:00:00Z".parse().unwrap());
    // Also where one is recorded, which may be too late.
    let directory = Directory::start(HEALTH).await;
    run(&provider(&directory), &known).await;
    assert_eq!(directory.count("application"), 1);
}

fn tokens_of_owner(directory: &Directory) -> usize {
    let tokens = directory.seen("token");
    let of_owner = tokens.iter().filter(|seen| seen.uri.path().contains(OWNER));
    of_owner.count()
}

#[tokio::test]
async fn the_owners_directory_is_asked_with_the_same_credential() {
    let directory = without_it().await;
    directory.change(|facts| {
        facts.owner = Some(OWNER);
        facts.application = application(HEALTH, &[("can", "2026-01-11T00:00:00Z")]);
    });
    directory.script(|seen| {
        (seen.call == "token" && seen.uri.path().contains(OWNER))
            .then(|| token_reply(&jwt(&json!({"tid": OWNER, "roles": HEALTH}))))
    });
    let provider = provider(&directory);
    for _ in 0..3 {
        let found = run(&provider, &target("health_check")).await;
        assert_eq!(reason(&found), Reason::PermissionNotConsented);
        assert_eq!(
            found.status("credential.expiry"),
            (CheckStatus::Warn, Some(Reason::CredentialExpiring))
        );
    }
    let form = &directory.seen("token");
    let of_owner = form
        .iter()
        .find(|seen| seen.uri.path().contains(OWNER))
        .unwrap();
    assert_eq!(of_owner.form["client_secret"], "canary-secret-value");
    assert_eq!(
        (tokens_of_owner(&directory), directory.count("application")),
        (1, 1)
    );
}

#[tokio::test]
async fn the_owners_directory_is_tried_once_a_day_by_one_check_at_a_time() {
    let directory = without_it().await;
    directory.change(|facts| facts.owner = Some(OWNER));
    directory.script(|seen| {
        let refused = Reply::token_error(400, "unauthorized_client", 700_016);
        (seen.call == "token" && seen.uri.path().contains(OWNER)).then_some(refused)
    });
    let provider = std::sync::Arc::new(provider(&directory));
    let mut checks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let provider = provider.clone();
        checks.spawn(async move { reason(&run(&provider, &target("health_check")).await) });
    }
    for found in checks.join_all().await {
        assert_eq!(found, Reason::PermissionMissing);
    }
    assert_eq!(
        reason(&run(&provider, &target("health_check")).await),
        Reason::PermissionMissing
    );
    assert_eq!(tokens_of_owner(&directory), 1);
    assert_eq!(directory.count("application"), 0);
}

#[tokio::test]
async fn a_token_of_another_directory_is_never_used_for_an_explanation() {
    let directory = without_it().await;
    directory.change(|facts| facts.owner = Some(OWNER));
    // The usual token, which is the customer's.
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(reason(&found), Reason::PermissionMissing);
    assert_eq!(directory.count("application"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_who_does_not_answer_holds_up_no_check() {
    // Its clock is the test's: what waits for the server lets it run on.
    let directory = without_it().await;
    directory.change(|facts| facts.owner = Some(OWNER));
    directory.script(|seen| {
        let silent = Reply::json(200, &json!({})).after(std::time::Duration::from_secs(500));
        (seen.call == "token" && seen.uri.path().contains(OWNER)).then_some(silent)
    });
    let began = tokio::time::Instant::now();
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(reason(&found), Reason::PermissionMissing);
    assert!(began.elapsed() < std::time::Duration::from_secs(60));
}
