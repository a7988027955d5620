//! Live pages, over plain HTTP.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::tenant;
use reqwest::Response;
use std::time::Duration;
use test_support::waiting::{PATIENCE, within};
use verifyd_simulator::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_pages_are_bounded_and_end_with_the_process() {
    let scene = Scene::sqlite_with(|settings| {
        // Two live pages.
        settings.http.max_connections = 16;
        settings.pages.live.keep_alive = Duration::from_secs(1);
    })
    .await;
    let connection = scene.add(1, Scenario::Healthy).await;
    let person = scene.operator().await;
    let mut first = person.get("/live").await;
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    let second = scene.operator().await.get("/live").await;
    assert_eq!(second.status(), 200);
    let third = scene.operator().await;
    let refused = third.get("/live").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(third.get("/").await.status(), 200);
    let event = first.chunk().await.unwrap().unwrap();
    assert!(event.starts_with(b"event: now"), "{event:?}");
    let run = scene.submit(connection).await;
    loop {
        let event = first.chunk().await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&event).into_owned();
        if text.starts_with("event: changed") {
            assert!(text.contains(&run.to_string()), "{text}");
            break;
        }
        // A comment that keeps the connection.
        assert!(text.starts_with(':'), "{text}");
    }
    scene.stop.cancel();
    let rest = async { while first.chunk().await.unwrap().is_some() {} };
    let ended = tokio::time::timeout(PATIENCE, rest).await;
    ended.expect("the stream ends with the process");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_page_ends_with_its_session() {
    let scene = Scene::sqlite().await;
    let person = scene.operator().await;
    let mut stream = person.get("/live").await;
    let csrf = person.csrf().await;
    person.post("/logout", &[("csrf", &csrf)]).await;
    let mut all = String::new();
    let rest = async {
        while let Some(chunk) = stream.chunk().await.unwrap() {
            all.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    let ended = tokio::time::timeout(PATIENCE, rest).await;
    ended.expect("the stream ends with the session");
    assert!(all.contains("event: last"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_page_of_a_run_ends_when_its_id_is_given_to_another_tenant() {
    let scene = Scene::postgres().await;
    let mine = scene.add(1, Scenario::Healthy).await;
    scene.add(2, Scenario::Healthy).await;
    let run = scene.submit(mine).await;
    let person = scene.person(ALL, tenant(1)).await;
    let mut stream = person.get(&format!("/live/runs/{run}")).await;
    assert_eq!(stream.status(), 200);
    // One transaction: the run is never seen to be gone.
    let anew = "TRUNCATE operation_runs RESTART IDENTITY;
        INSERT INTO operation_runs (workspace_id, tenant_id, type, status)
        VALUES (1, 2, 'provider.connection.check', 'queued')";
    let mut other = scene.connection().await;
    sqlx::raw_sql(anew).execute(&mut other).await.unwrap();
    let path = format!("/runs/{run}");
    assert_eq!(person.get(&path).await.status(), 404);
    assert_eq!(scene.operator().await.get(&path).await.status(), 200);
    let mut all = String::new();
    let rest = async {
        while let Some(chunk) = stream.chunk().await.unwrap() {
            all.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    let ended = tokio::time::timeout(PATIENCE, rest).await;
    ended.expect("the stream ends with the run");
    assert!(all.contains("event: last"), "{all}");
}

/// Reads a stream until this is part of it.
async fn until_said(stream: &mut Response, event: &str) {
    let mut all = String::new();
    let said = async {
        while !all.contains(event) {
            let chunk = stream.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("{event}: the stream has ended: {all}"));
            all.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    within(event, said).await;
}

/// The column of contexts has another name for a while, so that no statement reads one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_pages_read_no_context() {
    let scene = Scene::postgres().await;
    let connection = scene.add(1, Scenario::Healthy).await;
    let run = scene.submit(connection).await;
    let person = scene.operator().await;
    let page = format!("/runs/{run}");
    assert_eq!(person.get(&page).await.status(), 200);
    let mut other = scene.connection().await;
    // Triggers on the table read the column by its name.
    let hide = "SET session_replication_role = replica;
        ALTER TABLE operation_runs RENAME COLUMN context TO hidden";
    sqlx::raw_sql(hide).execute(&mut other).await.unwrap();
    assert!(person.get(&page).await.status().is_server_error());
    let mut streams = Vec::new();
    for path in ["/live".to_owned(), format!("/live{page}")] {
        let mut stream = person.get(&path).await;
        assert_eq!(stream.status(), 200, "{path}");
        until_said(&mut stream, "event: now").await;
        streams.push(stream);
    }
    let changed = "UPDATE operation_runs SET status = 'running'";
    sqlx::raw_sql(changed).execute(&mut other).await.unwrap();
    for stream in &mut streams {
        until_said(stream, "event: changed").await;
    }
}
