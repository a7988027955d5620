//! Rows that another application has written in a way that they cannot be used.

use crate::api::scene::Scene;
use serde_json::{Value, json};

/// Shown with the reason, and never checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_used_is_shown_and_not_checked() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let [fine, odd, nobody] = [
        scene.healthy(1).await,
        scene.healthy(2).await,
        scene.healthy(3).await,
    ];
    for statement in [
        "ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_status, \
             ALTER workspace_id DROP NOT NULL"
            .to_owned(),
        format!("UPDATE provider_connections SET status = 'paused' WHERE id = {odd}"),
        format!("UPDATE provider_connections SET workspace_id = NULL WHERE id = {nobody}"),
    ] {
        let statement = sqlx::AssertSqlSafe(statement);
        sqlx::raw_sql(statement)
            .execute(&mut scene.connection().await)
            .await
            .unwrap();
    }
    let all = scene.get(token, "/v1/connections").await;
    assert_eq!(all.status, 200, "{all:?}");
    let problems: Vec<(i64, Value)> = all.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let id = item["provider_connection_id"].as_i64().unwrap();
            (id, item["problem"].clone())
        })
        .collect();
    assert_eq!(problems.len(), 3);
    assert_eq!(problems[0], (fine, Value::Null));
    for (index, (id, column)) in [(odd, "status"), (nobody, "workspace_id")]
        .iter()
        .enumerate()
    {
        let (shown, problem) = &problems[index + 1];
        assert_eq!(shown, id);
        let begin = format!("provider_connections.{column}: ");
        assert!(problem.as_str().unwrap().starts_with(&begin), "{problem}");
        let one = scene.get(token, &format!("/v1/connections/{id}")).await;
        assert_eq!((one.status, &one.body["status"]), (200, &json!("unusable")));
        let start = format!("/v1/connections/{id}/checks");
        let refused = scene.post(token, &start, json!({})).await;
        assert_eq!((refused.status, refused.problem()), (409, "unusable"));
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(column), "{detail}");
    }
    let unusable = scene.get(token, "/v1/connections?status=unusable").await;
    assert_eq!(unusable.body["items"].as_array().unwrap().len(), 2);
    let runs = scene.sql("SELECT count(*) FROM operation_runs").await;
    assert_eq!(runs, 0);
}

/// A state that is too large is not loaded, and its session is shown without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_state_is_too_large_is_shown_and_gets_no_check() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let connection = scene.healthy(7).await;
    let session = scene
        .sql(
            "INSERT INTO tenant_onboarding_sessions (workspace_id, tenant_id, state) \
             VALUES (1, 7, jsonb_build_object('x', repeat('a', 1048576))) RETURNING id",
        )
        .await;
    let path = format!("/v1/onboarding-sessions/{session}");
    let shown = scene.get(token, &path).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let verdict = shown.body["verdict"].as_str().unwrap();
    assert!(verdict.contains("at most 1048576 bytes"), "{verdict}");
    let start = format!("/v1/connections/{connection}/checks");
    let body = json!({ "onboarding_session_id": session });
    let refused = scene.post(token, &start, body).await;
    assert_eq!((refused.status, refused.problem()), (422, "invalid-body"));
    assert_eq!(refused.body["errors"][0]["field"], "onboarding_session_id");
    let runs = scene.sql("SELECT count(*) FROM operation_runs").await;
    assert_eq!(runs, 0);
}
