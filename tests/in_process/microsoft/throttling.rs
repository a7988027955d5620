//! Too many requests, and servers that are not there for the moment.

use crate::microsoft::directory::{Directory, HEALTH, INTUNE, Reply};
use crate::microsoft::fixture::{provider, provider_with, run, settings, target};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use verifyd::domain::Reason;
use verifyd::domain::budget::{BudgetKey, Permits};
use verifyd::domain::report::CheckStatus;
use verifyd::ports::budgets::{ApplicationBudget, BudgetStore, PermitRequest};
use verifyd::ports::provider::Disposition;
use verifyd::ports::store_error::StoreError;

fn throttled() -> Reply {
    Reply::graph_error(429, "TooManyRequests", "")
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    // The provider's clock stands at midnight.
    for value in ["1", "Thu, 01 Jan 2026 00:00:01 GMT"] {
        let directory = Directory::start(HEALTH).await;
        directory.script(move |seen| {
            let refused = Reply::token_error(429, "temporarily_unavailable", 50196);
            let refused = || refused.header("retry-after", value);
            (seen.call == "token" && seen.before == 0).then(refused)
        });
        let started = std::time::Instant::now();
        let found = run(&provider(&directory), &target("health_check")).await;
        assert!(found.0.healthy);
        assert!(started.elapsed() >= Duration::from_secs(1), "{value}");
    }
}

#[tokio::test]
async fn what_waiting_does_not_change_is_told_at_once() {
    let directory = Directory::start(INTUNE).await;
    directory.script(|seen| match seen.call.as_str() {
        "/v1.0/deviceManagement/roleDefinitions" => Some(throttled().header("retry-after", "90")),
        "/v1.0/deviceManagement" => Some(Reply::graph_error(
            400,
            "BadRequest",
            "Request not applicable to target tenant",
        )),
        _ => None,
    });
    let found = run(&provider(&directory), &target("intune")).await;
    assert_eq!(
        found.status("intune.service"),
        (CheckStatus::Fail, Some(Reason::IntuneNotLicensed))
    );
    assert_eq!(
        found.status("intune.rbac"),
        (CheckStatus::Fail, Some(Reason::Throttled))
    );
    assert_eq!(found.0.disposition, Disposition::Finished);
}

/// The engine then chooses the pauses, each longer than the one before.
#[tokio::test]
async fn throttling_without_a_time_of_the_providers_leaves_the_pause_to_the_engine() {
    let directory = Directory::start(HEALTH).await;
    directory.answer("organization", throttled());
    let found = run(&provider(&directory), &target("health_check")).await;
    assert!(matches!(found.0.disposition, Disposition::Backoff(wait) if wait.as_secs() >= 5));
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let directory = Directory::start(HEALTH).await;
    let refused = throttled().header("retry-after", "250");
    directory.answer("organization", refused);
    let mut settings = settings(directory.base(), directory.base());
    settings.pauses.defer_after = Duration::from_secs(600);
    settings.request_timeout = Duration::from_secs(600);
    let mut target = target("health_check");
    target.deadline = tokio::time::Instant::now() + Duration::from_secs(200);
    let started = std::time::Instant::now();
    let found = run(&provider_with(&settings), &target).await;
    assert!(started.elapsed() < Duration::from_secs(150));
    assert!(matches!(found.0.disposition, Disposition::Later(_)));
}

/// A database that does not answer.
struct Unavailable;

#[async_trait]
impl BudgetStore for Unavailable {
    async fn permits(
        &self,
        _key: &BudgetKey,
        _request: &PermitRequest,
    ) -> Result<Option<Permits>, StoreError> {
        Err(StoreError::Unavailable("it is away".into()))
    }

    async fn budgets(&self) -> Result<Vec<ApplicationBudget>, StoreError> {
        Err(StoreError::Unavailable("it is away".into()))
    }
}

#[tokio::test]
async fn a_refusal_of_the_application_holds_its_other_checks_back() {
    let asked = Duration::from_secs(50);
    for (scope, holds_back) in [
        ("Application/ReadWrite/66666666", true),
        ("Tenant_Application/ReadWrite/66666666/11111111", false),
    ] {
        let directory = Directory::start(HEALTH).await;
        let refused = throttled().header("retry-after", "50");
        let refused = refused.header("x-ms-throttle-scope", scope);
        directory.answer("organization", refused);
        let provider = provider(&directory).with_budgets(Arc::new(Unavailable));
        let first = run(&provider, &target("health_check")).await;
        assert_eq!(first.0.disposition, Disposition::Later(asked), "{scope}");
        let sent = directory.count("organization");
        let second = run(&provider, &target("health_check")).await;
        let is_expected = match second.0.disposition {
            // Other requests of the first check may have been held back, too.
            Disposition::Budget(wait) => holds_back && wait <= asked + Duration::from_secs(8),
            Disposition::Later(wait) => !holds_back && wait == asked,
            _ => false,
        };
        assert!(is_expected, "{scope}: {:?}", second.0.disposition);
        let was_held_back = directory.count("organization") == sent;
        assert_eq!(was_held_back, holds_back, "{scope}");
    }
}

/// Else their runs come again before the budget has permits for them.
#[tokio::test]
async fn checks_that_have_ended_tell_how_many_requests_others_make() {
    let directory = Directory::start(INTUNE).await;
    let provider = provider(&directory).with_budgets(Arc::new(Unavailable));
    // So few that only the lowest rate is left: a request a second.
    for _ in 0..5 {
        let whole = run(&provider, &target("intune")).await;
        assert_eq!(whole.0.disposition, Disposition::Finished);
    }
    let refused = throttled().header("retry-after", "60");
    let refused = refused.header("x-ms-throttle-scope", "Application/ReadWrite/66666666");
    directory.answer("organization", refused);
    run(&provider, &target("intune")).await;
    let mut waits = Vec::new();
    for _ in 0..2 {
        let at = std::time::Instant::now();
        let disposition = run(&provider, &target("intune")).await.0.disposition;
        let Disposition::Budget(wait) = disposition else {
            panic!("{disposition:?}");
        };
        waits.push((at, wait));
    }
    // Four requests are expected where no check has ended.
    let [(first, first_wait), (second, second_wait)] = waits[..] else {
        panic!("{waits:?}");
    };
    let apart = second_wait + (second - first) - first_wait;
    assert!(apart > Duration::from_millis(4_500), "{apart:?}");
}

/// Answers every request on the connection with this, until the other side closes it.
async fn serve(mut stream: tokio::net::TcpStream, answer: String) {
    let mut buffer = vec![0; 8192];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn after_a_503_another_connection_is_tried() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let login = format!("http://{}", listener.local_addr().unwrap());
    let answer = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    tokio::spawn(async move {
        // The first connection leads to a server that is down, for as long as it is used.
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(stream, answer("503 Service Unavailable", "{}")));
        let (stream, _) = listener.accept().await.unwrap();
        let body = r#"{"error": "invalid_client", "error_codes": [7000215]}"#;
        serve(stream, answer("401 Unauthorized", body)).await;
    });
    let settings = settings(&login, "https://graph.example.com");
    let found = run(&provider_with(&settings), &target("health_check")).await;
    assert_eq!(
        found.status("provider.authentication"),
        (CheckStatus::Fail, Some(Reason::SecretInvalid))
    );
}
