//! A worker that has lost one of its parts ends; it does not go on looking healthy.

use crate::world::World;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use verifyd::domain::job::Hint;
use verifyd::engine::worker::WorkerError;
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
        Ok(0)
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
            Defect::None | Defect::DepthPanics | Defect::DepthHangs => {}
        }
        stop.cancelled().await;
        self.drained.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn health(&self) -> QueueHealth {
        QueueHealth {
            last_tick: None,
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
