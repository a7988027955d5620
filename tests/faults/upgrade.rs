//! Two versions on one database and one queue, as docs/guides/upgrade.md promises. `scripts/test-upgrade` names the
//! binary of an older version. Without it this version takes its place, so that the scenario itself stays right.

use crate::scene::{COMPLETED, Load, Producer, Scene};
use std::collections::BTreeSet;
use std::ffi::OsString;
use test_support::bench::{Daemon, binary};
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

/// So many runs are completed in each step, at least.
const RUNS: i64 = 60;

/// More than the workers complete, so that each of them always finds some.
const LOAD: Load = Load {
    of_each: 4,
    most_open: 200,
    most: usize::MAX,
    sends_hints: true,
};

fn older() -> OsString {
    std::env::var_os("VERIFYD_TEST_OTHER_BINARY")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(binary)
}

/// Waits until each of these workers has completed another run, and all of them many.
async fn work_goes_on(scene: &Scene, workers: &[&Daemon]) {
    let before = scene.number(COMPLETED).await;
    for worker in workers {
        let completed = format!(
            "SELECT count(*) FROM verifyd.run_attempts
             WHERE worker_id = '{}' AND end_reason = 'completed'",
            worker.worker
        );
        let earlier = scene.number(&completed).await;
        scene.until(&completed, |n| n > earlier).await;
    }
    scene.completed_at_least(before + RUNS).await;
}

/// Shows a run that this worker has completed, by the binary that commands run now.
async fn shows_what_was_completed_by(scene: &Scene, worker: &str) {
    let completed = format!(
        "SELECT min(run_id) FROM verifyd.run_attempts
         WHERE worker_id = '{worker}' AND end_reason = 'completed'"
    );
    let run = scene.number(&completed).await;
    let shown = scene.bench.json(&["runs", "show", &run.to_string()]);
    assert_eq!(shown["status"], "completed", "{shown}");
    let report = &shown["context"]["verification_report"];
    assert!(report.is_object(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_share_a_database_forward_and_back() {
    let older = older();
    let mut scene = Scene::made_by(&older).await;
    scene.add_of_every_outcome();
    let producer = Producer::start(&scene, LOAD);
    // Nothing but `enqueue` records runs of this connection.
    let quiet = scene.add(Scenario::Healthy, 5);
    let mut enqueued = BTreeSet::from([scene.bench.enqueue(quiet)]);
    let (mut first, mut second) = scene.two();
    work_goes_on(&scene, &[&first, &second]).await;

    // Forward: the schema under load, then the workers one by one.
    scene.bench.program = binary();
    scene.bench.success(&["migrate"]);
    work_goes_on(&scene, &[&first, &second]).await;
    let (mut third, mut fourth) = scene.two();
    enqueued.insert(scene.bench.enqueue(quiet));
    work_goes_on(&scene, &[&first, &second, &third, &fourth]).await;
    first.kill();
    third.kill();
    work_goes_on(&scene, &[&second, &fourth]).await;
    shows_what_was_completed_by(&scene, &first.worker).await;
    let connection = quiet.to_string();
    let replace = [
        "connections",
        "set-credential",
        &connection,
        "--secret-stdin",
    ];
    let replaced = scene.bench.run_with(&replace, SIMULATED_SECRET);
    assert!(replaced.status.success(), "{replaced:?}");
    second.terminate();
    work_goes_on(&scene, &[&fourth]).await;

    // Back: older workers on the newer schema, which open what the newer version has encrypted.
    scene.bench.program = older;
    let mut fifth = scene.bench.serve(&[]);
    work_goes_on(&scene, &[&fourth, &fifth]).await;
    fourth.terminate();
    enqueued.insert(scene.bench.enqueue(quiet));
    work_goes_on(&scene, &[&fifth]).await;
    shows_what_was_completed_by(&scene, &fourth.worker).await;

    enqueued.extend(producer.stop().await);
    let ended = scene.ends_as_meant().await;
    let ended: BTreeSet<i64> = ended.iter().map(|run| run.run).collect();
    assert!(enqueued.is_subset(&ended), "runs are lost");
    fifth.terminate();
}
