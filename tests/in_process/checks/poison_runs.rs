//! Runs that may kill their worker.

use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use test_support::world::{World, reasons};
use verifyd::domain::hint::Hint;
use verifyd::domain::{Outcome, RunId, RunStatus, WorkerId};
use verifyd::engine::pipeline::Processed;
use verifyd::ports::store::{ClaimPolicy, MAX_FAILED_COMPLETIONS, SweepCursor, SweepPolicy};

/// Claims the run so often, each time with a worker that is never seen again.
async fn lose(world: &World, run: RunId, times: u32) {
    let store = &world.services.store;
    let policy = ClaimPolicy {
        max_attempts: 3,
        lease: Duration::from_secs(60),
        isolated: true,
    };
    let sweep = SweepPolicy {
        worker_dead_after: Duration::from_secs(60),
        redeliver_after: Duration::from_secs(60),
        redeliver: false,
        batch: 10,
        window: 10,
        from: SweepCursor::START,
    };
    let dead = WorkerId("dead".to_owned());
    for _ in 0..times {
        let claimed = store.claim(run, &dead, &policy).await.unwrap();
        assert!(claimed.claimed().is_some());
        let swept = store.sweep(&sweep).await.unwrap().unwrap();
        assert_eq!(swept.reclaimed, [run]);
        world
            .sql("UPDATE verifyd_run_deliveries SET not_before = NULL")
            .await;
    }
}

async fn healthy_run(world: &World, tenant: u32) -> RunId {
    let connection = world.healthy(tenant).await;
    world.record(connection, |_| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_completion_reads_nothing_of_the_run() {
    let world = World::new().await;
    let worker = world.worker().await;
    let id = healthy_run(&world, 1).await;
    let before = world.run(id).await;
    lose(&world, id, 3 + MAX_FAILED_COMPLETIONS).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Completed(Outcome::Failed)
    );
    let run = world.run(id).await;
    crate::checks::assert_sound(&run, "last resort");
    assert_eq!(reasons(&run, &["fail"]), ["worker_lost"]);
    let report = run.report().unwrap();
    assert_eq!(report["identity"], json!({}));
    assert_eq!(report["checks"].as_array().unwrap().len(), 1);
    // What was recorded with it is still there.
    for (member, value) in before.context.as_object().unwrap() {
        assert_eq!(&run.context[member], value, "{member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_attempt_waits_for_isolation() {
    let world = World::new().await;
    let worker = world.worker().await;
    let suspect = healthy_run(&world, 1).await;
    lose(&world, suspect, 2).await;
    let place = worker.pipeline.isolation.enter().await.unwrap();
    let waiting = {
        let pipeline = Arc::clone(&worker.pipeline);
        tokio::spawn(async move { pipeline.process(&Hint::new(suspect)).await })
    };
    // Others are not held up.
    let other = healthy_run(&world, 2).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(other)).await,
        Processed::Completed(Outcome::Succeeded)
    );
    assert_eq!(world.run(suspect).await.status, RunStatus::Queued);
    assert!(!waiting.is_finished());
    drop(place);
    assert_eq!(
        waiting.await.unwrap(),
        Processed::Completed(Outcome::Succeeded)
    );
    // The place is free again.
    drop(worker.pipeline.isolation.enter().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_begins_no_last_chance() {
    let world = World::new().await;
    let worker = world.worker().await;
    let suspect = healthy_run(&world, 1).await;
    lose(&world, suspect, 2).await;
    let place = worker.pipeline.isolation.enter().await.unwrap();
    let waiting = {
        let pipeline = Arc::clone(&worker.pipeline);
        tokio::spawn(async move { pipeline.process(&Hint::new(suspect)).await })
    };
    worker.pipeline.isolation.close();
    assert_eq!(waiting.await.unwrap(), Processed::Deferred);
    drop(place);
    assert_eq!(
        worker.pipeline.process(&Hint::new(suspect)).await,
        Processed::Deferred
    );
    assert_eq!(world.run(suspect).await.status, RunStatus::Queued);
    assert_eq!(
        world.services.store.attempts(suspect).await.unwrap().len(),
        2
    );
}

/// What claims and works on a run is known, and nothing else: neither while it waits nor after.
#[tokio::test(flavor = "multi_thread")]
async fn only_runs_in_flight_are_noted() {
    let world = World::new().await;
    let worker = world.worker().await;
    let suspect = healthy_run(&world, 1).await;
    lose(&world, suspect, 2).await;
    let place = worker.pipeline.isolation.enter().await.unwrap();
    let waiting = {
        let pipeline = Arc::clone(&worker.pipeline);
        tokio::spawn(async move { pipeline.process(&Hint::new(suspect)).await })
    };
    drop(place);
    waiting.await.unwrap();
    assert!(!worker.state.in_flight.contains(suspect));
    let store = &world.services.store;
    assert_eq!(store.open_attempts(&worker.state.id).await.unwrap(), []);
}
