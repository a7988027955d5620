//! Runs that kill their worker come to an end, and leave the others alone. A claim that its worker
//! does not know of waits for nobody's deadline.

use crate::scene::{CLAIMING, COMPLETING, MAX_ATTEMPTS, Scene};
use test_support::proxy::{Act, Proxy, Rule};
use verifyd::ports::store::MAX_FAILED_COMPLETIONS;

/// One process at a time, so that nothing escapes the poison run: whoever works on it dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_run_never_costs_others_all_their_attempts() {
    let scene = Scene::slow(3.0).await;
    let runs = scene.record(6).await;
    let poison = runs[0];
    let held = format!(
        "SELECT coalesce(max(attempt), 0)::bigint FROM verifyd.run_attempts
         WHERE run_id = {poison} AND ended_at IS NULL"
    );
    for attempt in 1..=MAX_ATTEMPTS {
        let mut dying = scene.bench.serve(&[]);
        if attempt < MAX_ATTEMPTS {
            // All in danger: those of the process before are still running until they are reclaimed.
            let claimed = format!(
                "SELECT count(*) FROM verifyd.run_attempts
                 WHERE attempt = {attempt} AND ended_at IS NULL"
            );
            scene.until(&claimed, |n| n == 6).await;
        }
        scene.until(&held, |n| n == attempt).await;
        dying.kill();
    }
    let _last = scene.bench.serve(&[]);
    let mut lost_most = 0;
    for run in scene.ends_soundly().await {
        if run.run == poison {
            assert_eq!(run.outcome, "failed");
            assert_eq!(run.failures, ["worker_lost"]);
            let lost = ["worker_lost", "worker_lost", "worker_lost", "completed"];
            assert_eq!(run.attempts, lost);
        } else {
            assert_eq!(run.outcome, scene.members[&run.connection].outcome);
            let (last, lost) = run.attempts.split_last().unwrap();
            assert_eq!(last, "completed");
            assert!(lost.iter().all(|end| end == "worker_lost"), "{lost:?}");
            // Beside the poison run it lost all attempts but one, or fewer: it may have been quick.
            assert!(lost.len() <= 2, "{lost:?}");
            lost_most = lost_most.max(lost.len());
        }
    }
    assert_eq!(lost_most, 2, "none was in danger");
}

/// Each time that the run is to be completed, its worker dies; in the end it is completed from its
/// id alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_completion_always_kills_the_worker() {
    let scene = Scene::healthy().await;
    let deaths = u32::try_from(MAX_ATTEMPTS).unwrap() + MAX_FAILED_COMPLETIONS;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    way.at(Rule::once(Act::HoldRequest, COMPLETING).times(deaths));
    scene.record(1).await;
    for death in 1..=deaths {
        let mut dying = scene.serve_by("DATABASE_URL", &url);
        way.has_acted(death).await;
        dying.kill();
        way.cut();
    }
    let _last = scene.serve_by("DATABASE_URL", &url);
    let ended = scene.ends_soundly().await.remove(0);
    assert_eq!(ended.outcome, "failed");
    assert_eq!(ended.failures, ["worker_lost"]);
    let mut attempts = vec!["worker_lost"; deaths as usize];
    attempts.push("completed");
    assert_eq!(ended.attempts, attempts);
    let counted = "SELECT count(*) FROM verifyd.run_attempts WHERE counted";
    assert_eq!(scene.number(counted).await, MAX_ATTEMPTS);
    // Nothing of what was recorded with it was read.
    let identified = "SELECT count(*) FROM operation_runs
        WHERE context #> '{verification_report,identity,provider_connection_id}' IS NOT NULL";
    assert_eq!(scene.number(identified).await, 0);
    assert_eq!(scene.asked(), u64::try_from(MAX_ATTEMPTS).unwrap());
}

/// The only worker does not know that it has claimed the run, and goes on sending heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_the_only_claim_is_lost() {
    let scene = Scene::healthy().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    way.at(Rule::once(Act::LoseReply, "COMMIT").after(CLAIMING));
    let _only = scene.serve_by("DATABASE_URL", &url);
    scene.record(1).await;
    way.has_acted(1).await;
    let ended = scene.ends_as_meant().await.remove(0);
    assert_eq!(ended.attempts, ["worker_lost", "completed"]);
    // Half of its deadline was left, or more.
    let early = "SELECT count(*) FROM verifyd.run_attempts WHERE end_reason = 'worker_lost'
        AND ended_at - claimed_at < deadline_at - ended_at";
    assert_eq!(scene.number(early).await, 1);
}
