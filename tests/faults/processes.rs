//! Processes end, or stop, at every step. Whatever they leave is taken up by the others.

use crate::scene::{CLAIMING, COMPLETED, COMPLETING, MAX_ATTEMPTS, RUNNING, Scene};
use std::collections::BTreeMap;
use std::time::Duration;
use test_support::proxy::{Act, Proxy, Rule};
use test_support::redis_server::command;
use test_support::waiting::until;
use verifyd_simulator::{Endpoint, Scenario};

/// Kills a worker at a statement, in a scene with one run; another worker finishes. Returns how
/// the run's attempts ended, and how often the provider was asked for a token or the directory.
async fn killed_at(rule: Rule) -> (Vec<String>, u64) {
    let scene = Scene::healthy().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    way.at(rule);
    let mut killed = scene.serve_by("DATABASE_URL", &url);
    scene.record(1).await;
    way.has_acted(1).await;
    killed.kill();
    // What it had sent and was held has never arrived.
    way.cut();
    let _other = scene.bench.serve(&[]);
    let mut ended = scene.ends_as_meant().await;
    assert_eq!(ended.len(), 1);
    (ended.remove(0).attempts, scene.asked())
}

/// Each line is a test: where the worker is killed, how the run's attempts end, and how often the
/// provider is asked in all.
macro_rules! killed {
    ($(
        $(#[$doc:meta])*
        $name:ident: $after:expr, $on:expr, $act:ident => $ends:expr, $asked:expr;
    )+) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let rule = Rule::once(Act::$act, $on).after($after);
                let (attempts, asked) = killed_at(rule).await;
                assert_eq!(attempts, $ends);
                assert_eq!(asked, $asked);
            }
        )+
    };
}

killed! {
    killed_after_the_fetch_and_before_the_claim: CLAIMING, "", HoldRequest => AT_ONCE, 1;
    killed_before_the_commit_of_the_claim: CLAIMING, "COMMIT", HoldRequest => AT_ONCE, 1;
    killed_after_the_claim: CLAIMING, "COMMIT", HoldReply => LOST, 1;
    /// Part of the claim's transaction.
    killed_while_it_reads_the_connection: "FROM provider_connections", "", HoldReply => AT_ONCE, 1;
    killed_after_the_provider_and_before_the_completion: COMPLETING, "", HoldRequest => LOST, 2;
    killed_before_the_commit_of_the_completion: COMPLETING, "COMMIT", HoldRequest => LOST, 2;
    /// The hint comes again.
    killed_after_the_commit_of_the_completion: COMPLETING, "COMMIT", HoldReply => AT_ONCE, 1;
}

const AT_ONCE: [&str; 1] = ["completed"];
const LOST: [&str; 2] = ["worker_lost", "completed"];

/// It knows that it has claimed the run, and nothing of it has reached the provider.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_claim_and_before_the_provider_is_asked() {
    let scene = Scene::healthy().await;
    let (way, url) = Proxy::before(&scene.bench.simulator.base_url).await;
    way.at(Rule::once(Act::HoldRequest, ""));
    let url = url.trim_end_matches('/');
    let mut killed = scene.bench.serve(&[
        ("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN", url),
        ("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH", url),
    ]);
    scene.record(1).await;
    way.has_acted(1).await;
    assert_eq!(scene.number(RUNNING).await, 1);
    killed.kill();
    way.cut();
    let tenant = &scene.members.values().next().unwrap().entra_tenant_id;
    let calls = || scene.bench.simulator.calls(tenant);
    assert_eq!(calls().total, 0, "nothing has reached the provider");
    let _other = scene.bench.serve(&[]);
    assert_eq!(scene.ends_as_meant().await[0].attempts, LOST);
    assert_eq!(calls().of(Endpoint::Organization), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_provider_is_asked() {
    let scene = Scene::slow(2.0).await;
    let mut killed = scene.bench.serve(&[]);
    scene.record(3).await;
    while scene.asked() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    killed.kill();
    let _other = scene.bench.serve(&[]);
    for run in scene.ends_as_meant().await {
        assert_eq!(run.attempts, LOST);
    }
    assert_eq!(scene.asked(), 6);
}

/// Killed while it acknowledges: the run is completed, and Redis still says that it is in flight.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_completion_and_the_acknowledgement() {
    let scene = Scene::healthy().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    // An argument of the acknowledging script, and of no other.
    way.at(Rule::once(Act::HoldRequest, "\r\nDone\r\n"));
    let mut killed = scene.serve_by("REDIS_URL", &url);
    scene.record(1).await;
    way.has_acted(1).await;
    assert_eq!(scene.number(COMPLETED).await, 1);
    killed.kill();
    way.cut();
    assert_eq!(payloads(&scene).await, 1);
    // The hint is delivered again, and acknowledged; the run is not done again.
    let _other = scene.bench.serve(&[]);
    until("the hint is acknowledged", async || {
        payloads(&scene).await == 0
    })
    .await;
    let ended = scene.ends_as_meant().await;
    assert_eq!(ended[0].attempts, ["completed"]);
    assert_eq!(scene.asked(), 1);
}

/// Hints in Redis that are not done with.
async fn payloads(scene: &Scene) -> u64 {
    let mut plain = test_support::redis_server::connection(&scene.bench.redis_url).await;
    command(
        &mut plain,
        &["HLEN", &format!("{}:data", scene.bench.queue)],
    )
    .await
}

/// Stopped for longer than its lease while it asks the provider, and then it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_past_the_lease_and_continued() {
    let scene = Scene::slow(2.0).await;
    let stopped = scene.bench.serve(&[]);
    scene.record(5).await;
    scene.until(RUNNING, |n| n == 5).await;
    stopped.signal("STOP");
    let _other = scene.bench.serve(&[]);
    for run in scene.ends_as_meant().await {
        assert_eq!(run.attempts, LOST);
    }
    stopped.signal("CONT");
    // It notices, and works again.
    scene.completes(10).await;
    stopped.ready().await;
}

/// Stopped in the middle of the completing transaction: the row that it holds locked comes free,
/// and its late COMMIT writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_of_the_completion() {
    let scene = Scene::slow(0.1).await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    way.at(Rule::once(Act::HoldRequest, "COMMIT").after(COMPLETING));
    // The server ends a transaction that waits for its client for ten seconds longer than this.
    let stopped = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "5s"),
    ]);
    scene.record(1).await;
    way.has_acted(1).await;
    stopped.signal("STOP");
    let _other = scene.bench.serve(&[]);
    for run in scene.ends_as_meant().await {
        assert_eq!(run.attempts, LOST);
    }
    stopped.signal("CONT");
    way.release();
    scene.completes(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_in_the_middle_of_much_work() {
    let scene = Scene::slow(3.0).await;
    let grace = ("VERIFYD__WORKER__GRACE_PERIOD", "500ms");
    let (mut first, _second) = (scene.bench.serve(&[grace]), scene.bench.serve(&[]));
    // More than one of the two can take: it has 64 places.
    scene.record(120).await;
    scene.until(RUNNING, |n| n >= 80).await;
    first.terminate();
    let ended = scene.ends_as_meant().await;
    let released = ended
        .iter()
        .filter(|run| run.attempts == ["shutdown", "completed"]);
    assert!(released.count() > 0, "{ended:?}");
    let uncounted =
        "SELECT count(*) FROM verifyd.run_attempts WHERE end_reason = 'shutdown' AND counted";
    assert_eq!(scene.number(uncounted).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_twice_in_the_middle_of_much_work() {
    let scene = Scene::slow(4.0).await;
    let (mut first, _second) = scene.two();
    // So many that both have some, whichever was there first.
    scene.record(120).await;
    scene.until(RUNNING, |n| n >= 80).await;
    first.signal("TERM");
    first.wait_for("stopping: finishing runs in flight");
    first.signal("TERM");
    assert_eq!(first.ended(), Some(130));
    scene.ends_as_meant().await;
}

/// Whoever claims this run dies. It ends, and nothing else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_always_kills_its_worker() {
    let mut scene = Scene::new().await;
    let poison = scene.add(Scenario::ProviderTimeout, 9);
    // Alone at first: runs that are reclaimed together with it may be claimed together with it
    // again, by a worker that dies again.
    let others = std::mem::take(&mut scene.members);
    let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        others.into_iter().partition(|(id, _)| *id == poison);
    scene.members = own;
    let run = scene.record(1).await[0];
    let poison = std::mem::replace(&mut scene.members, others)
        .remove(&poison)
        .unwrap();
    let holder = format!(
        "SELECT coalesce(max(a.attempt), 0)::bigint FROM verifyd.run_attempts a
         WHERE a.run_id = {run} AND a.ended_at IS NULL"
    );
    // Graph is silent for half of this: longer than the other runs keep this test from looking.
    let silent = [("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "39s")];
    let mut daemons = vec![scene.bench.serve(&silent), scene.bench.serve(&silent)];
    for attempt in 1..=MAX_ATTEMPTS {
        scene.until(&holder, |n| n == attempt).await;
        let worker: String = sqlx::query_scalar(
            "SELECT worker_id FROM verifyd.run_attempts WHERE run_id = $1 AND ended_at IS NULL",
        )
        .bind(run)
        .fetch_one(&mut scene.bench.sql().await)
        .await
        .unwrap();
        let place = daemons.iter().position(|d| d.worker == worker).unwrap();
        let mut dead = daemons.remove(place);
        dead.kill();
        // The others go on while the run waits for its lease to end.
        let before = scene.number(COMPLETED).await;
        let more = scene.record(2).await.len();
        scene
            .completed_at_least(before + i64::try_from(more).unwrap())
            .await;
        daemons.push(scene.bench.serve(&silent));
    }
    let ended = scene.ends_soundly().await;
    for other in &ended {
        if other.run == run {
            assert_eq!(other.outcome, "failed");
            assert_eq!(other.failures, ["worker_lost"]);
            let lost = ["worker_lost", "worker_lost", "worker_lost", "completed"];
            assert_eq!(other.attempts, lost);
        } else {
            assert_eq!(other.outcome, scene.members[&other.connection].outcome);
        }
    }
    let asked = scene.bench.simulator.calls(&poison.entra_tenant_id);
    assert!(asked.of(Endpoint::Organization) <= 3, "{asked:?}");
}
