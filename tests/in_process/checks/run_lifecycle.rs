//! When a run is claimed, released, tried again and finished.

use crate::checks::assert_sound;
use serde_json::json;
use std::time::Duration;
use test_support::world::{World, check, reasons};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verifyd::app::Services;
use verifyd::domain::access::Binding;
use verifyd::domain::hint::Hint;
use verifyd::domain::{Outcome, RunStatus, TenantId};
use verifyd::engine::pipeline::Processed;
use verifyd::engine::worker::WorkerError;
use verifyd::operations::read_run;
use verifyd::ports::store::{AttemptEnd, MAX_FAILED_COMPLETIONS, NewRun};
use verifyd_simulator::Scenario;

/// A rule of another application, named after its condition, refuses a change of a run where this holds.
async fn refuse(world: &World, condition: &str) {
    world
        .sql(&format!(
            "CREATE TRIGGER \"{condition}\" BEFORE UPDATE ON operation_runs WHEN {condition}
             BEGIN SELECT raise(ABORT, 'refused by a rule of somebody else'); END"
        ))
        .await;
}

/// What waits for its next attempt waits no longer.
async fn end_pauses(world: &World) {
    world
        .sql("UPDATE verifyd_run_deliveries SET not_before = NULL")
        .await;
}

/// Starts a worker, which `stop` ends.
fn start(world: &World) -> (CancellationToken, JoinHandle<Result<(), WorkerError>>) {
    let stop = CancellationToken::new();
    let worker = world.services.worker();
    (stop.clone(), tokio::spawn(worker.run(stop)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_goes_back_to_the_queue_and_does_not_count() {
    let world = World::new().await;
    let worker = world.worker().await;
    let connection = world
        .connection(1, &Scenario::Throttled.tenant_id(1), "health_check")
        .await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Released(AttemptEnd::Throttled)
    );
    let run = world.run(id).await;
    assert_eq!((run.status, run.outcome), (RunStatus::Queued, None));
    let attempts = world.services.store.attempts(id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert!(!attempts[0].counted);
    // Not due yet, so nobody gets it.
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::NotClaimable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_attempts_end_as_worker_lost_without_another_call() {
    let world = World::new().await;
    let two = |services: &mut Services| services.settings.worker.max_attempts = 2;
    let worker = world.worker_with(two).await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let connection = world.connection(1, &tenant, "health_check").await;
    let id = world.record(connection, |_| {}).await;
    let policy = verifyd::ports::store::ClaimPolicy {
        max_attempts: 2,
        lease: Duration::from_secs(60),
        isolated: false,
    };
    for _ in 0..2 {
        let store = &world.services.store;
        let claim = store
            .claim(id, &worker.state.id, &policy)
            .await
            .unwrap()
            .claimed()
            .unwrap();
        assert!(
            store
                .release(&claim, AttemptEnd::Error, None, None, false)
                .await
                .unwrap()
        );
    }
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Completed(Outcome::Failed)
    );
    let run = world.run(id).await;
    assert_sound(&run, "worker_lost");
    assert_eq!(reasons(&run, &["fail"]), ["worker_lost"]);
    assert_eq!(
        world
            .simulator
            .calls_of(&tenant, verifyd_simulator::Endpoint::Token),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_heartbeat_claims_nothing() {
    let world = World::new().await;
    let worker = world.services.worker();
    let connection = world.healthy(1).await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Deferred
    );
    assert_eq!(world.run(id).await.status, RunStatus::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finds_runs_that_nobody_announced_and_drains_on_stop() {
    let world = World::with(|settings| {
        settings.reconciler.interval = Duration::from_millis(50);
    })
    .await;
    let connection = world
        .connection(1, &Scenario::Slow.tenant_id(1), "health_check")
        .await;
    let first = world.record(connection, |_| {}).await;
    world
        .services
        .store
        .mark_undispatched(&[first])
        .await
        .unwrap();

    let (stop, worker) = start(&world);
    world.completed(first).await;

    let second = world.record(connection, |_| {}).await;
    world.services.queue.send_runs(&[second]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(180), async {
        while world.run(second).await.status == RunStatus::Queued {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    worker.await.unwrap().unwrap();
    // What was in flight has been finished, and nobody is left on the list.
    assert_eq!(world.run(second).await.status, RunStatus::Completed);
    assert!(world.services.store.workers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_comes_before_the_first_heartbeat_is_not_lost() {
    let world = World::with(|settings| {
        // No sweep helps out.
        settings.reconciler.redeliver_after = Duration::from_secs(3600);
    })
    .await;
    let connection = world.healthy(1).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(world.record(connection, |_| {}).await);
    }
    world.services.queue.send_runs(&ids).await.unwrap();
    let (stop, worker) = start(&world);
    for id in ids {
        world.completed(id).await;
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_tried_again_later_and_counts() {
    let world = World::new().await;
    let worker = world.worker().await;
    let connection = world.healthy(1).await;
    let id = world.record(connection, |_| {}).await;
    refuse(&world, "new.status = 'completed'").await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Released(AttemptEnd::Error)
    );
    let run = world.run(id).await;
    assert_eq!((run.status, run.report()), (RunStatus::Queued, None));
    assert!(world.services.store.attempts(id).await.unwrap()[0].counted);
    assert!(
        world
            .services
            .store
            .permissions(TenantId(1))
            .await
            .unwrap()
            .is_empty(),
        "all or nothing"
    );
    // Not at once: whoever refused would be asked again and again.
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::NotClaimable
    );
}

/// Before it the refusal may have another cause. It keeps what verifyd reads of the context, unless that is refused, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_completion_drops_no_context_before_the_forced_one() {
    let world = World::new().await;
    let one = |services: &mut Services| services.settings.worker.max_attempts = 1;
    let worker = world.worker_with(one).await;
    for (tenant, member, keeps_own) in [(1, "note", true), (2, "target_scope", false)] {
        let connection = world.healthy(tenant).await;
        let change = |new: &mut NewRun| new.context["note"] = json!("the producer's");
        let id = world.record(connection, change).await;
        let condition = format!(
            "new.status = 'completed' AND json_type(new.context, '$.{member}') IS NOT NULL"
        );
        refuse(&world, &condition).await;
        for _ in 0..=MAX_FAILED_COMPLETIONS {
            assert_eq!(
                worker.pipeline.process(&Hint::new(id)).await,
                Processed::Released(AttemptEnd::Error)
            );
            assert_eq!(world.run(id).await.context["note"], "the producer's");
            end_pauses(&world).await;
        }
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Completed(Outcome::Failed)
        );
        let run = world.run(id).await;
        assert_eq!(run.context["producer_context_dropped"], true);
        assert_eq!(run.context.get("note"), None);
        assert_eq!(run.context.get("target_scope").is_some(), keeps_own);
    }
}

/// Its release, too, in the second case.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_results_were_refused_ends_with_that_reason() {
    const REFUSAL: &str = "SQLite 1811";
    let world = World::new().await;
    let store = world.services.store.as_ref();
    let one = |services: &mut Services| services.settings.worker.max_attempts = 1;
    let worker = world.worker_with(one).await;
    for (tenant, condition, end) in [
        (1, "new.status = 'completed'", Some(AttemptEnd::Error)),
        (2, "old.status = 'running'", None),
    ] {
        let connection = world.healthy(tenant).await;
        let id = world.record(connection, |_| {}).await;
        refuse(&world, condition).await;
        let processed = worker.pipeline.process(&Hint::new(id)).await;
        match end {
            Some(end) => assert_eq!(processed, Processed::Released(end)),
            None => assert_eq!(processed, Processed::Deferred),
        }
        let attempt = store.attempts(id).await.unwrap().remove(0);
        assert_eq!(attempt.end_reason, end);
        assert_eq!(attempt.result_refusal.as_deref(), Some(REFUSAL));
        if end.is_some() {
            world
                .sql(
                    "UPDATE verifyd_run_deliveries
                     SET not_before = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 hour')
                     WHERE not_before IS NOT NULL",
                )
                .await;
            let waiting = read_run(store, &Binding::EVERYTHING, id)
                .await
                .unwrap()
                .wait;
            let waiting = waiting.unwrap();
            assert_eq!(waiting.cause.as_str(), "refused");
            assert_eq!(waiting.database_refusal.as_deref(), Some(REFUSAL));
        }

        world.sql(&format!("DROP TRIGGER \"{condition}\"")).await;
        if end.is_none() {
            let open = store.open_attempts(&worker.state.id).await.unwrap();
            let released = store.release_orphaned(&worker.state.id, &open).await;
            assert_eq!(released.unwrap(), [id]);
        }
        end_pauses(&world).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Completed(Outcome::Failed)
        );
        let run = world.run(id).await;
        assert_sound(&run, "result_refused");
        assert_eq!(reasons(&run, &["fail"]), ["result_refused"]);
        let evidence = check(&run, "engine.completion")["evidence"].clone();
        let refusal = json!({"kind": "database_refusal", "value": REFUSAL});
        assert!(
            evidence.as_array().unwrap().contains(&refusal),
            "{evidence}"
        );
    }
}

/// The pauses grow, so that a run which nothing can complete costs the others little.
#[tokio::test(flavor = "multi_thread")]
async fn a_forced_completion_that_is_refused_is_tried_less_and_less_often() {
    let world = World::new().await;
    let one = |services: &mut Services| services.settings.worker.max_attempts = 1;
    let worker = world.worker_with(one).await;
    let connection = world.healthy(1).await;
    let id = world.record(connection, |_| {}).await;
    refuse(&world, "new.status = 'completed'").await;
    for _ in 0..MAX_FAILED_COMPLETIONS + 10 {
        end_pauses(&world).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Released(AttemptEnd::Error)
        );
    }
    // By then it is more than an hour; other errors have a pause of a minute.
    world
        .sql(
            "UPDATE verifyd_run_deliveries SET not_before = NULL
             WHERE not_before < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1800 seconds')",
        )
        .await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::NotClaimable
    );
}

/// A process that gets answers is healthy, whatever they are: a restart would not change them.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_claim_is_an_answer() {
    let world = World::new().await;
    let worker = world.worker().await;
    refuse(&world, "new.status = 'running'").await;
    for tenant in [1, 2] {
        let connection = world.healthy(tenant).await;
        let id = world.record(connection, |_| {}).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Refused
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(worker.state.claim_failures.lasted(), Duration::ZERO);
}
