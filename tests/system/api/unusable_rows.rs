//! Rows that another application has written in a way that they cannot be used.

use crate::api::scene::Scene;
use serde_json::{Value, json};

/// Shown with the reason, and never checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_used_is_shown_and_not_checked() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let [fine, odd, nobody, astray] = [
        scene.healthy(1).await,
        scene.healthy(2).await,
        scene.healthy(3).await,
        scene.healthy(4).await,
    ];
    for statement in [
        "ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_status, \
             ALTER workspace_id DROP NOT NULL"
            .to_owned(),
        format!("UPDATE provider_connections SET status = 'paused' WHERE id = {odd}"),
        format!("UPDATE provider_connections SET workspace_id = NULL WHERE id = {nobody}"),
        format!("UPDATE provider_connections SET entra_tenant_id = NULL WHERE id = {astray}"),
    ] {
        let statement = sqlx::AssertSqlSafe(statement);
        sqlx::raw_sql(statement)
            .execute(&mut scene.connection().await)
            .await
            .unwrap();
    }
    let all = scene.get(token, "/v1/connections").await;
    assert_eq!(all.status, 200, "{all:?}");
    let ids = [fine, odd, nobody, astray];
    assert_eq!(all.ids("provider_connection_id"), ids);
    assert_eq!(all.items()[0]["problem"], Value::Null);
    let wrong = [
        (odd, "status"),
        (nobody, "workspace_id"),
        (astray, "entra_tenant_id"),
    ];
    for ((id, column), shown) in wrong.iter().zip(&all.items()[1..]) {
        let problem = &shown["problem"];
        let begin = format!("provider_connections.{column}: ");
        assert!(problem.as_str().unwrap().starts_with(&begin), "{problem}");
        let one = scene.get(token, &format!("/v1/connections/{id}")).await;
        assert_eq!((one.status, &one.body["status"]), (200, &json!("unusable")));
        let refused = scene.start(token, *id, json!({})).await;
        assert_eq!(refused.refusal(), (409, "unusable"));
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(column), "{detail}");
    }
    let unusable = scene.get(token, "/v1/connections?status=unusable").await;
    assert_eq!(unusable.items().len(), 3);
    let runs = scene.sql("SELECT count(*) FROM operation_runs").await;
    assert_eq!(runs, 0);
}

/// A state that is too large is not loaded, and its session is shown without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_state_is_too_large_is_shown_and_gets_no_check() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let connection = scene.healthy(7).await;
    let large = "jsonb_build_object('x', repeat('a', 1048576))";
    let session = scene.session("1", "7", large).await;
    let path = format!("/v1/onboarding-sessions/{session}");
    let shown = scene.get(token, &path).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let verdict = shown.body["verdict"].as_str().unwrap();
    assert!(verdict.contains("at most 1048576 bytes"), "{verdict}");
    let body = json!({ "onboarding_session_id": session });
    let refused = scene.start(token, connection, body).await;
    assert_eq!(refused.refusal(), (422, "invalid-body"));
    assert_eq!(refused.body["errors"][0]["field"], "onboarding_session_id");
    let runs = scene.sql("SELECT count(*) FROM operation_runs").await;
    assert_eq!(runs, 0);
}
