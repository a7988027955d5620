//! Whole runs against a provider that is hostile on the wire: each ends in its reason, within its
//! deadline, and nothing is followed to where it leads. What a server can do in plain HTTP is in
//! the simulator's scenarios (`every_scenario_ends_as_it_says`); here is the rest.

mod tls;

use crate::checks::assert_sound;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use test_support::hostile_server::{At, Hostile, HostileServer, answer, hostilities};
use test_support::world::{ParsedRun, World, reasons};
use verifyd::config::Settings;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::Reason;
use verifyd::domain::{ConnectionId, Outcome};
use verifyd::engine::pipeline::Processed;
use verifyd::provider::microsoft::CloudSettings;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

/// Calls to Graph that are made although the first failed: whose directory, and which app.
const CALLS: usize = 2;

/// How often a call is sent again whose connections are lost before its answer: one that was used
/// before, and two of its own.
const RESENT: usize = 3;

pub fn cloud(settings: &mut Settings, name: &str, base: &str) {
    settings.microsoft.clouds.insert(
        name.to_owned(),
        CloudSettings {
            login: base.to_owned(),
            graph: base.to_owned(),
            portal: "https://entra.microsoft.com".to_owned(),
        },
    );
}

/// A connection of its own to this cloud.
async fn connection(world: &World, number: usize, cloud: &str) -> ConnectionId {
    let tenant = i64::try_from(number).unwrap() + 1;
    let entra = Scenario::Healthy.tenant_id(u32::try_from(number).unwrap());
    let id = world.connection(tenant, &entra, "health_check").await;
    world.set(id, &format!("cloud = '{cloud}'")).await;
    id
}

/// Runs one check to its end, by its own attempt: after the run's deadline another may take it.
pub async fn checked(world: &World, id: ConnectionId, what: &str) -> ParsedRun {
    let worker = world.worker().await;
    let run = world.record(id, |_| {}).await;
    // Guards against hanging only: on a busy machine the end comes later than the deadline.
    let guard = worker.state.settings.run_deadline + Duration::from_secs(120);
    let processed = tokio::time::timeout(guard, worker.pipeline.process(&Hint::new(run)))
        .await
        .unwrap_or_else(|_| panic!("{what}: it does not end"));
    let run = world.run(run).await;
    assert_eq!(
        processed,
        Processed::Completed(Outcome::Failed),
        "{what}: {run:?}"
    );
    assert_sound(&run, what);
    let text = format!("{} {}", run.context, run.failure_summary);
    for secret in [SIMULATED_SECRET, "169.254", "opaque"] {
        assert!(!text.contains(secret), "{what}: {secret} in {text}");
    }
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_answer_ends_in_its_reason_within_the_deadline() {
    let mut cases = Vec::new();
    for (name, places, what, reason) in hostilities() {
        for at in places {
            let tenant = Scenario::Healthy.tenant_id(u32::try_from(cases.len()).unwrap());
            let server = HostileServer::start(at, what.clone(), &tenant).await;
            cases.push((format!("{name} ({at:?})"), server, reason));
        }
    }
    let world = Arc::new(
        World::with(|settings| {
            settings.microsoft.request_timeout = Duration::from_secs(3);
            settings.worker.run_deadline = Duration::from_secs(180);
            for (number, (_, server, _)) in cases.iter().enumerate() {
                cloud(settings, &format!("hostile_{number}"), &server.url());
            }
        })
        .await,
    );
    let mut tasks = tokio::task::JoinSet::new();
    for (number, (name, server, reason)) in cases.into_iter().enumerate() {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            let id = connection(&world, number, &format!("hostile_{number}")).await;
            let run = checked(&world, id, &name).await;
            let limit = world.services.settings.microsoft.max_attempts_per_request;
            let asked = server.hostile.load(Ordering::Relaxed);
            let compressed = server.compressed.load(Ordering::Relaxed);
            (
                name,
                reason,
                reasons(&run, &["fail"]),
                asked,
                limit,
                compressed,
            )
        });
    }
    let mut problems = BTreeMap::new();
    while let Some(task) = tasks.join_next().await {
        let (name, reason, found, asked, limit, compressed) = task.unwrap();
        // Every call that is made before it ends was tried no more often than is allowed, and a lost
        // connection sent it again.
        let limit = (usize::try_from(limit).unwrap() + RESENT) * CALLS;
        let all = found.iter().all(|code| code == reason.code());
        if found.is_empty() || !all || asked == 0 || asked > limit || compressed > 0 {
            problems.insert(
                name,
                format!(
                    "{found:?}, wanted {reason}; {asked} requests, {compressed} for compressed"
                ),
            );
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_slow_for_ever_is_left_at_the_run_s_deadline() {
    let drip = Hostile::Endless(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec(),
        b"1\r\n \r\n".to_vec(),
        Duration::from_millis(20),
    );
    let server = HostileServer::start(At::Graph, drip, &Scenario::Healthy.tenant_id(0)).await;
    let world = World::with(|settings| {
        cloud(settings, "hostile", &server.url());
        // Never silent for long, and no request is cut off before the run is.
        settings.microsoft.request_timeout = Duration::from_secs(600);
        settings.worker.run_deadline = Duration::from_secs(40);
    })
    .await;
    let id = connection(&world, 0, "hostile").await;
    let run = checked(&world, id, "drip").await;
    assert_eq!(
        reasons(&run, &["fail"]),
        [Reason::DeadlineExceeded.code()],
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_is_told_as_unreachable() {
    let world = World::with(|settings| {
        cloud(settings, "nowhere", "https://login.nowhere.invalid");
    })
    .await;
    let id = connection(&world, 0, "nowhere").await;
    let run = checked(&world, id, "no such name").await;
    assert_eq!(
        reasons(&run, &["fail"]),
        [Reason::ProviderUnreachable.code()]
    );
}

/// The whole of it, worker and sweep included: the run is throttled, waits in the database, is
/// throttled again, and ends when its total deadline leaves no room for another wait.
async fn storm(headers: &str) -> (ParsedRun, usize, World) {
    let answer = answer(
        "429 Too Many Requests",
        headers,
        br#"{"error": {"code": "TooManyRequests", "message": "slow down"}}"#,
    );
    let tenant = Scenario::Healthy.tenant_id(0);
    let server = HostileServer::start(At::Graph, Hostile::Bytes(answer), &tenant).await;
    let world = World::with(|settings| {
        cloud(settings, "hostile", &server.url());
        settings.microsoft.pauses.defer_after = Duration::from_secs(1);
        settings.microsoft.max_attempts_per_request = 2;
        // Between them 14 seconds in which it may wait, however long an attempt takes on a busy machine.
        settings.worker.run_deadline = Duration::from_secs(40);
        settings.worker.total_deadline = Duration::from_secs(54);
        settings.reconciler.interval = Duration::from_millis(100);
        settings.reconciler.redeliver_after = Duration::from_millis(200);
    })
    .await;
    let id = connection(&world, 0, "hostile").await;
    let run = world.record(id, |_| {}).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = world.services.worker();
    let worker = tokio::spawn(worker.run(stop.clone()));
    let run = world.completed(run).await;
    stop.cancel();
    worker.await.unwrap().unwrap();
    (run, server.hostile.load(Ordering::Relaxed), world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_429_ends_as_throttled_with_retry_after_and_without() {
    let storms = ["", "retry-after: 0\r\n", "retry-after: 2\r\n"]
        .map(|headers| async move { (headers, storm(headers).await) });
    for (headers, (run, requests, world)) in futures::future::join_all(storms).await {
        assert_sound(&run, headers);
        assert_eq!(
            reasons(&run, &["fail"])[0],
            Reason::Throttled.code(),
            "{headers}"
        );
        assert_eq!(run.outcome, Some(Outcome::Failed), "{headers}");
        let attempts = world.services.store.attempts(run.id).await.unwrap();
        // It went back to the queue, uncounted, at least once; each call was tried at most twice.
        assert!(attempts.len() > 1, "{headers}: {attempts:?}");
        let (last, before) = attempts.split_last().unwrap();
        assert!(before.iter().all(|a| !a.counted) && last.counted);
        assert!(
            requests <= 2 * CALLS * attempts.len(),
            "{headers}: {requests} requests in {} attempts",
            attempts.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_503_is_an_outage_after_the_last_try() {
    let answer = answer("503 Service Unavailable", "", b"");
    let tenant = Scenario::Healthy.tenant_id(0);
    let server = HostileServer::start(At::Graph, Hostile::Bytes(answer), &tenant).await;
    let world = World::with(|settings| cloud(settings, "hostile", &server.url())).await;
    let id = connection(&world, 0, "hostile").await;
    let run = checked(&world, id, "503").await;
    let found = reasons(&run, &["fail"]);
    assert_eq!(found[0], Reason::ProviderUnavailable.code());
    assert_eq!(
        server.hostile.load(Ordering::Relaxed),
        CALLS
            * usize::try_from(world.services.settings.microsoft.max_attempts_per_request).unwrap()
    );
}
