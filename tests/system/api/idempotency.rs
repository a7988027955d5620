//! What is asked again is not done again.

use crate::api::scene::{ALL, Reply, Scene};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use verifyd::domain::access::Binding;

async fn post(scene: &Scene, token: &str, path: &str, key: &str, body: Value) -> Reply {
    let headers = [("idempotency-key", key)];
    scene
        .call(Method::POST, path, token, Some(body), &headers)
        .await
}

async fn runs(scene: &Scene) -> i64 {
    scene.sql("SELECT count(*) FROM operation_runs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_equal_requests_record_one_run() {
    let scene = Arc::new(Scene::postgres().await);
    let token = scene.master().await;
    for key in [Some("the-same"), None] {
        let connection = scene.healthy(if key.is_some() { 1 } else { 2 }).await;
        let before = runs(&scene).await;
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (scene, token) = (Arc::clone(&scene), token.clone());
            callers.spawn(async move {
                let path = format!("/v1/connections/{connection}/checks");
                let key = key.map(|key| ("idempotency-key", key));
                loop {
                    let headers = key.as_slice();
                    let body = Some(json!({}));
                    let answer = scene.call(Method::POST, &path, &token, body, headers).await;
                    if answer.status != 409 {
                        return answer;
                    }
                    assert_eq!(answer.problem(), "in-progress");
                    assert_eq!(answer.header("retry-after"), "1");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            });
        }
        let answers = callers.join_all().await;
        assert_eq!(runs(&scene).await, before + 1);
        let created = answers.iter().filter(|a| a.body["created"] == true).count();
        let first = answers
            .iter()
            .filter(|a| a.status == 201 && a.header("idempotency-replayed").is_empty());
        assert_eq!(first.count(), 1);
        let location = answers[0].header("location");
        assert!(answers.iter().all(|a| a.header("location") == location));
        if key.is_some() {
            // Every one of them is told what the first one was told.
            assert_eq!(created, 50);
            assert!(answers.iter().all(|a| a.body == answers[0].body));
        } else {
            assert_eq!(created, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_request_of_one_token() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    let other = &scene.token(ALL, Binding::EVERYTHING).await;
    let (one, two) = (scene.healthy(1).await, scene.healthy(2).await);
    let path = format!("/v1/connections/{one}/checks");
    let first = post(&scene, token, &path, "k", json!({})).await;
    assert_eq!(first.status, 201);
    let again = post(&scene, token, &path, "k", json!({})).await;
    assert_eq!(
        (again.status, again.header("idempotency-replayed")),
        (201, "true")
    );
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("location"), first.header("location"));
    let body = json!({ "module": "health_check" });
    let reused = post(&scene, token, &path, "k", body).await;
    assert_eq!(reused.refusal(), (422, "key-reused"));
    let elsewhere = format!("/v1/connections/{two}/checks");
    let reused = post(&scene, token, &elsewhere, "k", json!({})).await;
    assert_eq!(reused.refusal(), (422, "key-reused"));
    let others = post(&scene, other, &elsewhere, "k", json!({})).await;
    assert_eq!(
        (others.status, others.header("idempotency-replayed")),
        (201, "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_a_run_that_is_gone_is_not_given_again() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let connection = scene.healthy(1).await;
    let path = format!("/v1/connections/{connection}/checks");
    let first = post(&scene, token, &path, "k", json!({})).await;
    assert_eq!(first.status, 201);
    scene
        .sql("WITH gone AS (DELETE FROM operation_runs RETURNING id) SELECT count(*) FROM gone")
        .await;
    let second = post(&scene, token, &path, "k", json!({})).await;
    assert_eq!(
        (second.status, second.header("idempotency-replayed")),
        (201, "")
    );
    assert_ne!(second.header("location"), first.header("location"));
    let again = post(&scene, token, &path, "k", json!({})).await;
    assert_eq!(
        (again.status, again.header("idempotency-replayed")),
        (201, "true")
    );
    assert_eq!(again.body, second.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_gives_its_key_back() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    let connection = scene.healthy(1).await;
    let started = scene.start(token, connection, json!({})).await;
    let path = format!("{}/acknowledgements", started.header("location"));
    let body = json!({ "check_key": "provider.identity", "reason": "x" });
    for _ in 0..2 {
        let refused = post(&scene, token, &path, "k", body.clone()).await;
        assert_eq!(refused.refusal(), (409, "not-acknowledgeable"));
    }
    for wrong in ["", "with space", &"x".repeat(256)] {
        let refused = post(&scene, token, &path, wrong, body.clone()).await;
        assert_eq!(refused.refusal(), (400, "invalid-header"), "{wrong:?}");
    }
    let twice = scene
        .request(Method::POST, &path)
        .bearer_auth(token)
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    assert_eq!(scene.send(twice).await.problem(), "invalid-header");
}
