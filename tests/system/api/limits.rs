//! What is bounded, and what happens while the database is unavailable.

use crate::api::scene::{ALL, Scene, operations, with_id};
use crate::api::slow_peers::{begun, rest};
use reqwest::Method;
use std::time::{Duration, Instant};
use test_support::waiting::until;
use verifyd::domain::access::Binding;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_ask_so_often() {
    let scene = Scene::postgres_with(|s| s.http.api.requests_per_minute = 5).await;
    let one = scene.token(ALL, Binding::EVERYTHING).await;
    let two = scene.token(ALL, Binding::EVERYTHING).await;
    for _ in 0..5 {
        assert_eq!(scene.get(&one, "/v1/runs").await.status, 200);
    }
    let refused = scene.get(&one, "/v1/runs").await;
    assert_eq!(refused.refusal(), (429, "rate-limited"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=12).contains(&wait), "{wait}");
    assert_eq!(scene.get(&two, "/v1/runs").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_one_may_ask_so_often() {
    let scene = Scene::postgres_with(|s| s.http.api.anonymous_requests_per_minute = 3).await;
    let token = scene.master().await;
    assert_eq!(scene.get("", "/v1/openapi.json").await.status, 200);
    assert_eq!(scene.get("", "/v1/runs").await.status, 401);
    assert_eq!(scene.get("vfd_wrong", "/v1/runs").await.status, 401);
    for path in ["/v1/openapi.json", "/v1/runs"] {
        let refused = scene.get("", path).await;
        assert_eq!(refused.status, 429, "{path}");
        assert!(!refused.header("retry-after").is_empty());
    }
    // Nor does a path that does not exist, or a method, let in more.
    assert_eq!(scene.get("", "/v1/nothing").await.status, 429);
    assert_eq!(scene.get("", "/v1/").await.status, 429);
    let refused = scene.request(Method::DELETE, "/v1/runs").send().await;
    assert_eq!(refused.unwrap().status(), 429);
    // Whoever has a token is not held up by those who have none.
    assert_eq!(scene.get(&token, "/v1/runs").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tokens_are_counted_before_they_are_looked_up() {
    // A minute's allowance comes back within a minute, so the machine may be slow.
    let scene = Scene::postgres_with(|s| s.http.api.anonymous_requests_per_minute = 20).await;
    let (known, fresh) = (scene.master().await, scene.master().await);
    let late = scene.master().await;
    assert_eq!(scene.get(&known, "/v1/runs").await.status, 200);
    // The same wrong token again and again is looked up once, and locks out no token of others.
    let revoked = unknown();
    let mut tried = 0;
    while scene.get(&revoked, "/v1/runs").await.status == 401 {
        tried += 1;
        assert!(tried < 10_000, "nothing is refused");
    }
    assert!(tried >= 20, "only {tried} were let in");
    assert_eq!(scene.get(&fresh, "/v1/runs").await.status, 200);
    // Ever other ones use up what the address may look up.
    let begun = std::time::Instant::now();
    let mut let_in = 0;
    let mut refused = 0;
    while refused < 100 {
        let answer = scene.get(&unknown(), "/v1/runs").await;
        match answer.status {
            401 => let_in += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
        // Beside the allowance of the minute that begins, one comes back every three seconds.
        let allowed = 21.0 + begun.elapsed().as_secs_f64() / 3.0;
        assert!(
            f64::from(let_in) <= allowed,
            "{let_in} were let in, {allowed} allowed"
        );
        // A token that was valid a moment ago is not locked out.
        assert_eq!(scene.get(&known, "/v1/runs").await.status, 200);
    }
    // One that this process has never seen has to wait, and is then let in.
    let begun = std::time::Instant::now();
    loop {
        let answer = scene.get(&late, "/v1/runs").await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 429, "{answer:?}");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(600),
            "it is never let in"
        );
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}

/// A token that has the form of one.
pub fn unknown() -> String {
    let text = verifyd::domain::token::fresh().unwrap();
    secrecy::ExposeSecret::expose_secret(&text).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_unavailable_every_route_says_so() {
    let scene = Scene::postgres().await;
    let token = scene.master().await;
    assert_eq!(scene.get(&token, "/v1/runs").await.status, 200);
    scene.world.services.store.close().await;
    for (method, template, scope) in operations() {
        let path = with_id(&template, "1");
        let answer = scene.call(method.clone(), &path, &token, None, &[]).await;
        let wanted = if scope.is_some() { 503 } else { 200 };
        assert_eq!(answer.status, wanted, "{method} {path}");
        if scope.is_some() {
            assert_eq!(answer.problem(), "unavailable");
            assert!(!answer.header("retry-after").is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_back_is_used_again() {
    let (scene, proxy) = Scene::behind_a_proxy().await;
    let token = scene.master().await;
    let connection = scene.healthy(1).await;
    let start = format!("/v1/connections/{connection}/checks");
    let key = [("idempotency-key", "k")];
    proxy.refuse();
    proxy.cut();
    for (method, path) in [(Method::GET, "/v1/runs"), (Method::POST, &start)] {
        let away = scene.call(method, path, &token, None, &key).await;
        assert_eq!(away.refusal(), (503, "unavailable"));
        assert!(!away.header("retry-after").is_empty());
    }
    proxy.open();
    // A connection within `database.acquire_timeout`, which is short here.
    let until = Instant::now() + Duration::from_secs(180);
    let started = loop {
        let answer = scene.call(Method::POST, &start, &token, None, &key).await;
        if answer.status != 503 || Instant::now() > until {
            break answer;
        }
    };
    assert_eq!(started.status, 201, "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_too_long_is_answered() {
    let scene = Scene::postgres_with(|s| s.http.timeouts.request = Duration::from_secs(2)).await;
    let token = scene.master().await;
    let mut other = scene.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE operation_runs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let answer = scene.get(&token, "/v1/runs").await;
    assert_eq!(answer.refusal(), (503, "unavailable"));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    until("requests are answered again", async || {
        scene.get(&token, "/v1/runs").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let scene = Scene::postgres_with(|s| s.http.timeouts.head = Duration::from_millis(300)).await;
    for head in ["", "GET /v1/runs HTTP/1.1\r\nHost: x\r\n"] {
        rest(begun(&scene, head).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_an_id_of_the_callers_choice() {
    let scene = Scene::sqlite().await;
    for (given, kept) in [("abc-1.2_3", true), ("with space", false), ("", false)] {
        let headers = [("x-request-id", given)];
        let answer = scene
            .call(Method::GET, "/v1/runs", "", None, &headers)
            .await;
        assert_eq!(answer.header("x-request-id") == given, kept, "{given}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_is_not_there() {
    let scene = Scene::postgres_with(|s| {
        s.http.api.enabled = verifyd::http::api::Switch::Off;
    })
    .await;
    for path in ["/v1/runs", "/v1/openapi.json"] {
        let answer = reqwest::get(format!("{}{path}", scene.base)).await.unwrap();
        assert_eq!(answer.status(), 404);
    }
    let alive = reqwest::get(format!("{}/healthz", scene.base))
        .await
        .unwrap();
    assert_eq!(alive.status(), 200);
}
