//! A worker that has lost one of its parts ends; it does not go on looking healthy.

use crate::world::World;
use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use verifyd::domain::RunId;
use verifyd::domain::job::Hint;
use verifyd::engine::worker::WorkerError;
use verifyd::http::{self, health::Health};
use verifyd::ports::queue::{HintHandler, Queue, QueueError, QueueHealth};

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
    /// Not even when it is told to.
    NeverStops,
}

#[derive(Debug)]
struct DefectiveQueue {
    defect: Defect,
    /// The consumer was told to stop, and did so in its own time.
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
            Defect::None | Defect::DepthPanics | Defect::DepthHangs | Defect::TakesNothing => {}
        }
        stop.cancelled().await;
        self.drained.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn health(&self) -> QueueHealth {
        QueueHealth {
            last_tick: Some(Duration::ZERO),
            connected: true,
            restarts: 0,
            rejected: 0,
        }
    }

    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

/// How the worker ends, told to or not, and whether its consumer could drain.
async fn end(defect: Defect, told: bool) -> (Result<(), WorkerError>, bool) {
    let world = World::new().await;
    let queue = Arc::new(DefectiveQueue {
        defect,
        drained: AtomicBool::new(false),
    });
    let mut worker = world.services.worker(world.services.engine());
    worker.queue = queue.clone();
    let stop = CancellationToken::new();
    if told {
        stop.cancel();
    }
    // Guards against hanging only.
    let ended = tokio::time::timeout(Duration::from_secs(60), worker.run(stop)).await;
    (
        ended.expect("the worker ends"),
        queue.drained.load(Ordering::Relaxed),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_a_part_ends_with_its_name() {
    for (defect, name) in [
        (Defect::DepthPanics, "the reconciler ended by itself"),
        (
            Defect::ConsumePanics,
            "the consumer of hints ended by itself",
        ),
        (
            Defect::ConsumeReturns,
            "the consumer of hints ended by itself",
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
async fn loops_turn_while_everything_else_is_away() {
    let world = World::new().await;
    let engine = world.services.engine();
    let mut worker = world.services.worker(engine.clone());
    worker.queue = Arc::new(DefectiveQueue {
        defect: Defect::DepthHangs,
        drained: AtomicBool::new(false),
    });
    let sweeps = Arc::clone(&worker.reconciler_state);
    world.services.store.close().await;
    tokio::time::pause();
    let still = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(engine.lease.motion.still_for() >= still.elapsed());
    assert!(sweeps.motion.still_for() >= still.elapsed());
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(engine.lease.motion.still_for() < Duration::from_secs(10));
        assert!(sweeps.motion.still_for() < Duration::from_secs(70));
    }
    assert!(!engine.lease.is_alive());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_consumer_that_does_not_stop_is_left_behind() {
    let world = World::new().await;
    let mut worker = world.services.worker(world.services.engine());
    worker.queue = Arc::new(DefectiveQueue {
        defect: Defect::NeverStops,
        drained: AtomicBool::new(false),
    });
    world.services.store.close().await;
    tokio::time::pause();
    let stop = CancellationToken::new();
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(600), worker.run(stop)).await;
    let error = ended.expect("the worker ends").unwrap_err();
    assert_eq!(error.to_string(), "the consumer of hints does not stop");
}

/// Asks over HTTP until it answers with this status.
async fn alive_is(address: SocketAddr, wanted: u16) -> String {
    let until = Instant::now() + Duration::from_secs(60);
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
        let engine = world.services.engine();
        let mut worker = world.services.worker(engine.clone());
        if let Some(defect) = defect {
            worker.queue = Arc::new(DefectiveQueue {
                defect,
                drained: AtomicBool::new(false),
            });
        }
        let second = Duration::from_secs(1);
        let health = Health {
            engine,
            queue: Arc::clone(&worker.queue),
            reconciler: Arc::clone(&worker.reconciler_state),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            check_timeout: second,
            stuck_after: 600 * second,
            untaken_after: 2 * second,
            stopping: CancellationToken::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let router = http::router(Arc::new(health), None);
        let settings = &world.services.settings.http;
        let serving = tokio::spawn(http::serve(listener, router, settings, closing.clone()));
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker.run(stop.clone()));
        if status == 200 {
            // Hints that nobody ever claims are taken, too.
            for run in 1..=40 {
                let hint = Hint::new(RunId(1_000_000 + run));
                world.services.queue.send(&[hint]).await.unwrap();
                tokio::time::sleep(second / 10).await;
                alive_is(address, 200).await;
            }
        } else {
            let body = alive_is(address, 503).await;
            assert!(body.contains("none was taken"), "{body}");
        }
        stop.cancel();
        running.await.unwrap().unwrap();
        closing.cancel();
        serving.await.unwrap().unwrap();
    }
}
