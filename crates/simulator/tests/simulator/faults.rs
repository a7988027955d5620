//! What comes in place of answers.

use super::caller::{Answer, Caller, assignments, utc_now};
use serde_json::Value;
use std::time::{Duration, Instant};
use verifyd_simulator::{Endpoint, SIMULATED_SECRET, Scenario, SimulatorOptions};

const ORGANIZATION: &str = "/v1.0/organization?$select=id";

#[tokio::test]
async fn what_happens_once_happens_once_per_tenant() {
    let caller = Caller::new().await;
    for (scenario, status, retry_after) in [
        (Scenario::ThrottledBriefly, 429, "1"),
        (Scenario::ThrottledBrieflyWithoutHint, 429, ""),
        (Scenario::Flaky, 503, ""),
    ] {
        for instance in [0, 1] {
            let token = caller.token(&scenario.tenant_id(instance)).await;
            let first = caller.get(&token, ORGANIZATION).await;
            assert_eq!(first.status, status, "{scenario}");
            assert_eq!(first.header("retry-after"), retry_after, "{scenario}");
            assert!(!first.graph_code().is_empty());
            for _ in 0..2 {
                assert_eq!(caller.get(&token, ORGANIZATION).await.status, 200);
            }
        }
    }
    for (scenario, status) in [
        (Scenario::ThrottledBrieflySignIn, 429),
        (Scenario::FlakySignIn, 503),
    ] {
        let tenant = scenario.tenant_id(0);
        let first = caller.sign_in(&tenant).await;
        assert_eq!(first.status, status);
        assert_eq!(first.json()["error"], "temporarily_unavailable");
        assert_eq!(caller.sign_in(&tenant).await.status, 200);
    }
}

#[tokio::test]
async fn throttling_without_end_says_how_long_in_every_way() {
    let options = SimulatorOptions {
        long_retry_after: Duration::from_secs(77),
        ..SimulatorOptions::default()
    };
    let caller = Caller::with(options).await;
    for _ in 0..3 {
        let answer = caller.ask(Scenario::Throttled, ORGANIZATION).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, "77"));
        let scope = answer.header("x-ms-throttle-scope");
        assert!(scope.starts_with("Tenant_Application/"), "{scope}");
    }
    let silent = caller
        .ask(Scenario::ThrottledWithoutHint, ORGANIZATION)
        .await;
    assert_eq!(
        (silent.status, silent.headers.get("retry-after")),
        (429, None)
    );
    let before = utc_now();
    let dated = caller.ask(Scenario::ThrottledUntilDate, ORGANIZATION).await;
    let until = chrono::DateTime::parse_from_rfc2822(dated.header("retry-after")).unwrap();
    let wait = until.to_utc() - before;
    assert!((75..=140).contains(&wait.num_seconds()), "{wait}");
}

#[tokio::test]
async fn stalls_outlast_the_caller_but_not_the_simulator() {
    let caller = Caller::new().await;
    let patience = Duration::from_millis(200);
    let silent = caller
        .http
        .post(caller.token_url(&Scenario::ProviderTimeoutSignIn.tenant_id(0)))
        .timeout(patience)
        .send()
        .await;
    assert!(silent.unwrap_err().is_timeout());
    let token = caller.token(&Scenario::ProviderTimeout.tenant_id(0)).await;
    let silent = caller
        .http
        .get(caller.url(ORGANIZATION))
        .bearer_auth(token)
        .timeout(patience)
        .send()
        .await;
    assert!(silent.unwrap_err().is_timeout());

    let token = caller
        .token(&Scenario::ProviderTimeoutInBody.tenant_id(0))
        .await;
    let mut begun = caller
        .http
        .get(caller.url(ORGANIZATION))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(begun.status(), 200);
    assert_eq!(begun.chunk().await.unwrap().unwrap(), "{\"value\":[");
    let more = tokio::time::timeout(patience, begun.chunk()).await;
    assert!(more.is_err(), "{more:?}");
    // It would stall for two minutes; the guard is only against hanging.
    tokio::time::timeout(Duration::from_secs(100), caller.simulator.shutdown())
        .await
        .unwrap();
}

#[tokio::test]
async fn answers_are_broken_in_every_way() {
    let caller = Caller::new().await;
    let truncated = caller.ask(Scenario::ResponseInvalid, ORGANIZATION).await;
    assert_eq!(truncated.status, 200);
    assert!(
        truncated
            .header("content-type")
            .starts_with("application/json")
    );
    let error = serde_json::from_str::<Value>(&truncated.text).unwrap_err();
    assert!(error.is_eof(), "{error}");

    for (scenario, status) in [
        (Scenario::ResponseInvalidHtml, 200),
        (Scenario::ProviderUnavailableGateway, 504),
    ] {
        let page = caller.ask(scenario, ORGANIZATION).await;
        assert_eq!(page.status, status, "{scenario}");
        assert!(page.header("content-type").starts_with("text/html"));
    }
    let page = caller
        .sign_in(&Scenario::ProxyRefusedPage.tenant_id(0))
        .await;
    assert_eq!(page.status, 200);
    assert!(page.text.starts_with("<!DOCTYPE html>"));

    let deep = caller
        .ask(Scenario::ResponseInvalidDeep, ORGANIZATION)
        .await;
    assert_eq!(deep.text.matches('[').count(), 20_000);
    assert_eq!(deep.text.matches(']').count(), 20_000);

    let shape = caller
        .ask(Scenario::ResponseInvalidShape, ORGANIZATION)
        .await;
    assert!(shape.json()["value"].is_object());
}

#[tokio::test]
async fn large_answers_are_large_with_and_without_saying_so() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let caller = Caller::new().await;
    let token = caller.token(&Scenario::ResponseTooLarge.tenant_id(0)).await;
    let request = caller.http.get(caller.url(ORGANIZATION)).bearer_auth(token);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.content_length(), None);
    let mut read = 0;
    while let Some(part) = response.chunk().await.unwrap() {
        read += part.len() as u64;
    }
    assert!(read > SIZE, "{read}");

    let tenant = Scenario::ResponseTooLargeSignIn.tenant_id(0);
    let declared = caller.http.post(caller.token_url(&tenant)).send().await;
    assert!(declared.unwrap().content_length().unwrap() > SIZE);
}

#[tokio::test]
async fn redirects_lead_to_a_trap_that_counts() {
    let caller = Caller::new().await;
    let scenario = Scenario::RedirectRefused;
    let tenant = scenario.tenant_id(0);
    let answer = caller.ask(scenario, ORGANIZATION).await;
    assert_eq!(answer.status, 302);
    let location = answer.header("location");
    assert!(!location.starts_with(&caller.simulator.base_url));
    assert_eq!(caller.simulator.calls_of(&tenant, Endpoint::Trap), 0);
    let careless = reqwest::Client::builder().no_proxy().build().unwrap();
    let trapped = careless.get(location).send().await.unwrap();
    assert_eq!(trapped.status(), 418);
    assert_eq!(caller.simulator.calls_of(&tenant, Endpoint::Trap), 1);

    let tenant = Scenario::RedirectRefusedSignIn.tenant_id(0);
    let answer = caller.sign_in(&tenant).await;
    assert_eq!(answer.status, 307);
    let form = [("client_secret", SIMULATED_SECRET)];
    let request = careless.post(caller.token_url(&tenant)).form(&form);
    assert_eq!(request.send().await.unwrap().status(), 418);
    assert_eq!(caller.simulator.calls_of(&tenant, Endpoint::Trap), 1);
}

#[tokio::test]
async fn lists_lead_elsewhere_or_nowhere() {
    let caller = Caller::new().await;
    let next = async |scenario: Scenario, path: &str| {
        let body = caller.ask(scenario, path).await.json();
        assert!(!body["value"].as_array().unwrap().is_empty(), "{scenario}");
        body["@odata.nextLink"].as_str().unwrap().to_owned()
    };
    let first = |scenario: Scenario| assignments(&scenario.tenant_id(0));
    let own = &caller.simulator.base_url;

    let scenario = Scenario::RedirectRefusedNextLink;
    let foreign = next(scenario, &first(scenario)).await;
    assert!(foreign.starts_with("http://localhost:"), "{foreign}");

    let scenario = Scenario::ResponseTooLargePages;
    let mut seen = std::collections::BTreeSet::new();
    let mut path = first(scenario);
    for _ in 0..10 {
        let link = next(scenario, &path).await;
        path = link.strip_prefix(own.as_str()).unwrap().to_owned();
        assert!(seen.insert(link));
    }

    let scenario = Scenario::PagingLoop;
    let link = next(scenario, &first(scenario)).await;
    let path = link.strip_prefix(own.as_str()).unwrap();
    assert_eq!(next(scenario, path).await, link);
}

#[tokio::test]
async fn latency_is_added_to_every_answer_and_slow_tenants_add_more() {
    let options = SimulatorOptions {
        latency: Duration::from_millis(30),
        slow_answer: Duration::from_millis(120),
        ..SimulatorOptions::default()
    };
    let caller = Caller::with(options).await;
    for (scenario, least) in [(Scenario::Healthy, 30), (Scenario::Slow, 150)] {
        let least = Duration::from_millis(least);
        let start = Instant::now();
        let token = caller.token(&scenario.tenant_id(0)).await;
        assert!(start.elapsed() >= least, "{scenario}");
        let start = Instant::now();
        let request = caller.http.get(caller.url(ORGANIZATION)).bearer_auth(token);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 200);
        assert!(start.elapsed() >= least, "{scenario}");
    }
}
