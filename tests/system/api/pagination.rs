//! Pages of lists.

use crate::api::scene::Scene;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use verifyd::domain::ConnectionId;

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_no_gaps_and_no_repeats_while_runs_are_recorded() {
    let scene = Arc::new(Scene::postgres().await);
    let token = scene.master().await;
    let connection = ConnectionId(scene.healthy(1).await);
    let mut there = BTreeSet::new();
    for _ in 0..40 {
        there.insert(scene.world.record(connection, |_| {}).await.0);
    }
    let done = Arc::new(AtomicBool::new(false));
    let recording = tokio::spawn({
        let (scene, done) = (Arc::clone(&scene), Arc::clone(&done));
        async move {
            let mut recorded = 0;
            while !done.load(Ordering::Relaxed) {
                scene.world.record(connection, |_| {}).await;
                recorded += 1;
            }
            recorded
        }
    });
    let mut next = Some("/v1/runs?limit=7&status=queued&tenant=1".to_owned());
    let mut seen = Vec::new();
    while let Some(path) = next {
        let page = scene.get(&token, &path).await;
        assert!(page.items().len() <= 7);
        seen.extend(page.ids("operation_run_id"));
        next = page.body["next"].as_str().map(ToOwned::to_owned);
    }
    done.store(true, Ordering::Relaxed);
    assert!(
        recording.await.unwrap() > 0,
        "nothing was recorded meanwhile"
    );
    assert!(
        seen.is_sorted_by(|a, b| a > b),
        "newest first, none twice: {seen:?}"
    );
    let seen: BTreeSet<i64> = seen.into_iter().collect();
    assert!(there.is_subset(&seen), "{:?}", there.difference(&seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_paged_with_their_filters() {
    let scene = Scene::sqlite().await;
    let token = scene.master().await;
    for tenant in 1..=9 {
        scene.healthy(tenant).await;
    }
    let mut next = Some("/v1/connections?limit=2&overall=never&name=tenant".to_owned());
    let mut seen = Vec::new();
    while let Some(path) = next {
        let page = scene.get(&token, &path).await;
        seen.extend(page.ids("provider_connection_id"));
        next = page.body["next"].as_str().map(ToOwned::to_owned);
    }
    assert_eq!(seen, (1..=9).collect::<Vec<_>>());
    let none = scene.get(&token, "/v1/connections?overall=ready").await;
    assert!(none.items().is_empty());
    // A page that is exactly full is the last one.
    let full = scene.get(&token, "/v1/connections?limit=9").await;
    assert_eq!(full.body["next"], serde_json::Value::Null);
}
