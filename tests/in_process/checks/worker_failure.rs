//! A worker that has lost one of its parts ends; it does not go on looking healthy.

use async_trait::async_trait;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_support::world::World;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;
use verifyd::engine::worker::{Worker, WorkerError};
use verifyd::http::{self, health::Health};
use verifyd::ports::queue::{HintHandler, Queue, QueueError, QueueHealth};
use verifyd::telemetry::metrics::Metrics;

/// How a queue ends one part of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// In the reconciler.
    DepthPanics,
    /// The reconciler waits for ever.
    DepthHangs,
    ConsumePanics,
    ConsumeReturns,
    ConsumeFails,
    /// Hints wait, and its consumer looks alive and takes none.
    TakesNothing,
    /// Its consumer has not begun.
    NotStarted,
    /// Its consumer has shown no sign of life for an hour.
    Silent,
    /// Not even when it is asked to.
    NeverStops,
}

#[derive(Debug)]
struct DefectiveQueue {
    defect: Defect,
    /// The consumer was stopped, and did so in its own time.
    drained: AtomicBool,
}

#[async_trait]
impl Queue for DefectiveQueue {
    fn kind(&self) -> &'static str {
        "in_process"
    }

    async fn send(&self, _: &[Hint]) -> Result<(), QueueError> {
        Ok(())
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        assert_ne!(self.defect, Defect::DepthPanics, "a panic on purpose");
        if self.defect == Defect::DepthHangs {
            std::future::pending::<()>().await;
        }
        Ok(match self.defect {
            Defect::TakesNothing => 3,
            _ => 0,
        })
    }

    async fn consume(
        &self,
        _: Arc<dyn HintHandler>,
        _: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError> {
        match self.defect {
            Defect::ConsumePanics => panic!("a panic on purpose"),
            Defect::ConsumeReturns => return Ok(()),
            Defect::ConsumeFails => return Err(QueueError::Unavailable("on purpose".into())),
            Defect::NeverStops => std::future::pending().await,
            Defect::None
            | Defect::DepthPanics
            | Defect::DepthHangs
            | Defect::TakesNothing
            | Defect::NotStarted
            | Defect::Silent => {}
        }
        stop.cancelled().await;
        self.drained.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn health(&self) -> QueueHealth {
        QueueHealth {
            last_activity: match self.defect {
                Defect::NotStarted => None,
                Defect::Silent => Some(Duration::from_secs(3600)),
                _ => Some(Duration::ZERO),
            },
            connected: true,
            restarts: 0,
            dead_letters: 0,
        }
    }

    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

fn defective(defect: Defect) -> Arc<DefectiveQueue> {
    Arc::new(DefectiveQueue {
        defect,
        drained: AtomicBool::new(false),
    })
}

/// How the worker ends, told to or not, and whether its consumer could drain.
async fn end(defect: Defect, told: bool) -> (Result<(), WorkerError>, bool) {
    let world = World::new().await;
    let queue = defective(defect);
    let mut worker = world.services.worker();
    worker.queue = queue.clone();
    let stop = CancellationToken::new();
    if told {
        stop.cancel();
    }
    // Guards against hanging only.
    let ended = tokio::time::timeout(Duration::from_secs(180), worker.run(stop)).await;
    (
        ended.expect("the worker ends"),
        queue.drained.load(Ordering::Relaxed),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_a_part_ends_with_its_name() {
    for (defect, name) in [
        (Defect::DepthPanics, "the reconciler ended unexpectedly"),
        (
            Defect::ConsumePanics,
            "the consumer of hints ended unexpectedly",
        ),
        (
            Defect::ConsumeReturns,
            "the consumer of hints ended unexpectedly",
        ),
        (
            Defect::ConsumeFails,
            "the consumer of hints ended: the queue is not available: on purpose",
        ),
    ] {
        let (ended, drained) = end(defect, false).await;
        assert_eq!(ended.unwrap_err().to_string(), name);
        assert_eq!(drained, defect == Defect::DepthPanics);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_told_to_stop_ends_well() {
    let (ended, drained) = end(Defect::None, true).await;
    ended.unwrap();
    assert!(drained);
}

/// The database is closed and the queue never answers: the loops turn, and say so. One that does
/// not turn shows.
#[tokio::test]
async fn loops_make_progress_while_all_dependencies_are_unavailable() {
    let world = World::new().await;
    let mut worker = world.services.worker();
    let state = Arc::clone(&worker.state);
    worker.queue = defective(Defect::DepthHangs);
    let sweeps = Arc::clone(&worker.reconciler_state);
    world.services.store.close().await;
    tokio::time::pause();
    let still = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(state.lease.activity.age() >= still.elapsed());
    assert!(sweeps.activity.age() >= still.elapsed());
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(state.lease.activity.age() < Duration::from_secs(10));
        assert!(sweeps.activity.age() < Duration::from_secs(70));
    }
    assert!(!state.lease.is_alive());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_consumer_that_does_not_stop_is_left_behind() {
    let world = World::new().await;
    let mut worker = world.services.worker();
    worker.queue = defective(Defect::NeverStops);
    world.services.store.close().await;
    tokio::time::pause();
    let state = Arc::clone(&worker.state);
    let stop = CancellationToken::new();
    stop.cancel();
    tokio::select! {
        ended = worker.run(stop.clone()) => panic!("{ended:?}"),
        () = state.stop_is_overdue(&stop) => {}
    }
}

/// With times that no test reaches.
fn health(worker: &Worker, queue: Arc<dyn Queue>) -> Health {
    let long = Duration::from_secs(600);
    Health {
        store: Arc::clone(&worker.store),
        queue,
        worker: Arc::clone(&worker.state),
        reconciler: Arc::default(),
        metrics: Metrics::detached(),
        check_timeout: Duration::from_secs(30),
        stuck_after: long,
        unclaimed_after: Duration::ZERO,
        untaken_after: long,
        stopping: CancellationToken::new(),
        logged: Mutex::default(),
        rendered: Default::default(),
        database: Default::default(),
    }
}

const MOMENT: Duration = Duration::from_millis(100);

/// The health endpoints over HTTP.
struct Served {
    address: SocketAddr,
    closing: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn new(world: &World, health: Health) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let router = http::router(Arc::new(health), None);
        let settings = &world.services.settings.http;
        let serving = tokio::spawn(http::serve(listener, router, settings, closing.clone()));
        Self {
            address,
            closing,
            serving,
        }
    }

    /// Those of this worker, which may leave hints waiting for a moment only.
    async fn of(world: &World, worker: &Worker) -> Self {
        let mut health = health(worker, Arc::clone(&worker.queue));
        health.reconciler = Arc::clone(&worker.reconciler_state);
        health.untaken_after = 20 * MOMENT;
        Self::new(world, health).await
    }

    async fn end(self) {
        self.closing.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

/// Asks over HTTP until it answers with this status.
async fn alive_is(address: SocketAddr, wanted: u16) -> String {
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        let answer = reqwest::get(format!("http://{address}/healthz")).await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let body = answer.text().await.unwrap();
        if status == wanted {
            return body;
        }
        assert!(Instant::now() < until, "still {status}: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The loops turn, the consumer gives its signs of life, and nothing moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_hints_waiting_is_not_alive() {
    let world = World::new().await;
    for (defect, status) in [(Some(Defect::TakesNothing), 503), (None, 200)] {
        let mut worker = world.services.worker();
        if let Some(defect) = defect {
            worker.queue = defective(defect);
        }
        let served = Served::of(&world, &worker).await;
        let address = served.address;
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker.run(stop.clone()));
        if status == 200 {
            // Hints that nobody ever claims are taken, too.
            for run in 1..=40 {
                let hint = Hint::new(RunId(1_000_000 + run));
                world.services.queue.send(&[hint]).await.unwrap();
                tokio::time::sleep(MOMENT).await;
                alive_is(address, 200).await;
            }
        } else {
            let body = alive_is(address, 503).await;
            assert!(body.contains("none was taken"), "{body}");
        }
        stop.cancel();
        running.await.unwrap().unwrap();
        served.end().await;
    }
}

/// Its slots are taken, as by runs whose completions wait: it is busy, and a restart would only lose their results.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_free_slot_may_leave_hints_waiting() {
    let world = World::new().await;
    let mut worker = world
        .worker_with(|services| services.settings.worker.concurrency = 1)
        .await;
    worker.queue = defective(Defect::TakesNothing);
    let served = Served::of(&world, &worker).await;
    let address = served.address;
    let slots = Arc::clone(&worker.state.slots);
    let slot = slots.acquire().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    for _ in 0..40 {
        tokio::time::sleep(MOMENT).await;
        alive_is(address, 200).await;
    }
    drop(slot);
    let body = alive_is(address, 503).await;
    assert!(body.contains("none was taken"), "{body}");
    stop.cancel();
    running.await.unwrap().unwrap();
    served.end().await;
}

/// What `/readyz` and `/healthz` say; the former with what is in the way, by part.
async fn said(world: &World, health: Health) -> (u16, Vec<String>, u16, String) {
    let served = Served::new(world, health).await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{}{path}", served.address));
        let answer = answer.await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (ready, body) = get("/readyz").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let bad = body["checks"].as_object().unwrap().iter();
    let bad = bad
        .filter(|(_, said)| **said != "ok")
        .map(|(part, said)| format!("{part}: {}", said.as_str().unwrap()))
        .collect();
    let (alive, why) = get("/healthz").await;
    served.end().await;
    (ready, bad, alive, why)
}

/// Each part that a claim needs, bad by itself.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_the_part_that_is_in_the_way() {
    let world = World::new().await;
    let worker = world.worker().await;
    let fine = || defective(Defect::None);
    let (ready, bad, alive, _) = said(&world, health(&worker, fine())).await;
    assert_eq!((ready, bad, alive), (200, vec![], 200));

    for (defect, wanted) in [
        (Defect::NotStarted, "consumer: not started yet"),
        (Defect::Silent, "consumer: no sign of life for 3600 s"),
    ] {
        let (ready, bad, alive, _) = said(&world, health(&worker, defective(defect))).await;
        assert_eq!((ready, bad, alive), (503, vec![wanted.to_owned()], 200));
        // A queue that is unavailable is no obstacle: runs are taken from the database.
        let polling = health(&worker, defective(defect));
        polling.reconciler.polling.store(true, Ordering::Relaxed);
        assert_eq!(said(&world, polling).await.0, 200);
    }

    let never_beat = health(&world.services.worker(), fine());
    let (ready, bad, ..) = said(&world, never_beat).await;
    let wanted = "lease: the heartbeat does not get through".to_owned();
    assert_eq!((ready, bad), (503, vec![wanted]));

    let stopping = health(&worker, fine());
    stopping.stopping.cancel();
    let (ready, bad, alive, _) = said(&world, stopping).await;
    let wanted = "draining: the process is stopping".to_owned();
    assert_eq!((ready, bad, alive), (503, vec![wanted], 200));

    world
        .sql("DELETE FROM verifyd_schema_migrations WHERE version > 1")
        .await;
    let (ready, bad, alive, _) = said(&world, health(&worker, fine())).await;
    assert_eq!((ready, alive), (503, 200));
    assert!(bad[0].starts_with("schema: version 1, needed "), "{bad:?}");

    world.services.store.close().await;
    let (ready, bad, alive, _) = said(&world, health(&worker, fine())).await;
    assert_eq!((ready, bad.len(), alive), (503, 2, 200), "{bad:?}");
}

/// Whatever is tried to claim fails, though the heartbeat gets through. One answer is enough.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_all_fail_show_in_readiness_and_then_in_liveness() {
    let world = World::new().await;
    let worker = world.worker().await;
    let id = world.healthy(1).await;
    let runs = [
        world.record(id, |_| {}).await,
        world.record(id, |_| {}).await,
    ];
    // As `a_refused_claim_is_an_answer` shows, only claims without an answer count.
    let failed = |run| worker.state.claim_failures.failed(run);
    let observed = || health(&worker, defective(Defect::None));
    failed(runs[0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    failed(runs[0]);
    assert_eq!(said(&world, observed()).await.0, 200, "that run's trouble");
    failed(runs[1]);
    let (ready, bad, alive, _) = said(&world, observed()).await;
    assert_eq!((ready, alive), (503, 200));
    let lasted: u64 = bad[0]
        .strip_prefix("claims: none was answered for ")
        .and_then(|rest| rest.strip_suffix(" s")?.parse().ok())
        .unwrap_or_else(|| panic!("{bad:?}"));
    assert!(bad.len() == 1 && lasted >= 2, "{bad:?}");
    let mut impatient = observed();
    impatient.stuck_after = Duration::from_millis(1900);
    // The loops turn in a worker only.
    worker.state.lease.activity.touch();
    impatient.reconciler.activity.touch();
    let (_, _, alive, why) = said(&world, impatient).await;
    assert_eq!(alive, 503);
    assert!(why.contains("no claim has been answered"), "{why}");

    worker.pipeline.process(&Hint::new(runs[0])).await;
    let (ready, _, alive, _) = said(&world, observed()).await;
    assert_eq!((ready, alive), (200, 200));
}
