//! The largest contexts and the longest numbers that a producer may write: their runs are checked and shown
//! like any others.

use crate::hostile_producer::scene::Scene;
use crate::hostile_producer::shapes::{Database, many_small_values};
use crate::hostile_producer::surfaces::Visitor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use test_support::memory::peak_kib;
use test_support::padding::TEXTS;

/// JSON for a member that verifyd does not know.
fn extras() -> Vec<String> {
    let mut all = Vec::new();
    for (_, text) in TEXTS {
        for kib in [60, 66, 128, 255] {
            all.push(json!(text(kib * 1024 - 1024)).to_string());
        }
    }
    let long = "7".repeat(4_000);
    all.extend([
        long.clone(),
        format!("-{long}.{long}"),
        "9".repeat(100_000),
        "-1e100000".into(),
        "1e-16000".into(),
        format!(r#"{{"a": [{{"b": {long}}}, [1e4000]]}}"#),
    ]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_up_to_the_limit_are_checked_and_shown() {
    let mut scene = Scene::own_tables().await;
    let mut runs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (number, extra) in extras().iter().enumerate() {
        let connection = scene.targets[number % scene.targets.len()].connection;
        let run = scene.right_with(number, extra).await;
        runs.entry(connection).or_default().push(run);
    }
    scene.round_ends_well().await;
    for (connection, runs) in runs {
        let list = format!("/v1/runs?connection={connection}&limit=200");
        let list: Value = serde_json::from_str(&scene.visitor.shown(&list).await).unwrap();
        let items = list["items"].as_array().unwrap();
        let listed: Vec<i64> = items
            .iter()
            .filter(|item| item["report"] == "readable" && item["provider"] == "microsoft")
            .filter_map(|item| item["operation_run_id"].as_i64())
            // Others were started meanwhile, by the one who looked.
            .filter(|run| runs.contains(run))
            .rev()
            .collect();
        assert_eq!(listed, runs);
        let page = scene
            .visitor
            .shown(&format!("/connections/{connection}"))
            .await;
        let newest = format!("\"/runs/{}\"", runs[runs.len() - 1]);
        assert!(page.contains(&newest), "{newest}: {page}");
    }
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_many_small_values_take_little_memory() {
    many_readers_take_at_most(64 * 1024, 262_144).await;
}

/// With the largest `limits.context_bytes`. Parsed, each of these contexts takes 68 MB.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_the_largest_contexts_take_little_memory() {
    many_readers_take_at_most(128 * 1024, 1_048_576).await;
}

/// `most_kib`: beyond what the worker took before.
async fn many_readers_take_at_most(most_kib: u64, context_bytes: usize) {
    let mut scene = Scene::for_readers_of(context_bytes).await;
    let mut runs = Vec::new();
    for (number, mistakes) in many_small_values(Database::Postgres, context_bytes).enumerate() {
        let run = scene.hostile(number, &mistakes).await;
        runs.push(run.expect("the row is taken"));
    }
    scene.note_what_is_left_alone().await;
    scene.round_ends_well().await;
    let other = scene.another_visitor().await;
    let before = peak_kib(scene.daemon.pid());
    Visitor::read_at_once(&[&scene.visitor, &other], &runs).await;
    if let (Some(before), Some(after)) = (before, peak_kib(scene.daemon.pid())) {
        let more = after.saturating_sub(before);
        assert!(more < most_kib, "the readers took {more} KiB");
        scene.memory_kib = scene.memory_kib.max(before + most_kib);
    }
    scene.right(1).await;
    scene.round_ends_well().await;
    scene.ends().await;
}
