//! A handler that remembers, and a consumer that can be stopped.

use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use test_support::waiting::{self, PATIENCE};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;
use verifyd::ports::queue::{HintHandler, Queue};

/// Remembers what it was given.
#[derive(Debug)]
pub struct Probe {
    seen: Mutex<Vec<Hint>>,
    finished: AtomicUsize,
    in_flight: AtomicUsize,
    max_in_flight: AtomicUsize,
    /// Handlers wait for a permit each while it is closed.
    gate: Semaphore,
    gated: AtomicBool,
    panics: Mutex<HashSet<RunId>>,
}

impl Probe {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            finished: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            gated: AtomicBool::new(false),
            panics: Mutex::default(),
        })
    }

    /// Handlers wait until `open`.
    pub fn close_gate(&self) {
        self.gated.store(true, Ordering::SeqCst);
    }

    pub fn open_gate(&self) {
        self.gated.store(false, Ordering::SeqCst);
        self.gate.add_permits(1_000_000);
    }

    pub fn panic_on(&self, run: i64) {
        self.panics.lock().unwrap().insert(RunId(run));
    }

    pub fn hints(&self) -> Vec<Hint> {
        self.seen.lock().unwrap().clone()
    }

    pub fn runs(&self) -> HashSet<i64> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|hint| hint.operation_run_id.0).collect()
    }

    /// How often a run was started.
    pub fn times(&self, run: i64) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|hint| hint.operation_run_id.0 == run)
            .count()
    }

    pub fn started(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub fn max_in_flight(&self) -> usize {
        self.max_in_flight.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl HintHandler for Probe {
    async fn handle(&self, hint: Hint) {
        let run = hint.operation_run_id;
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.max_in_flight.fetch_max(now, Ordering::SeqCst);
        self.seen.lock().unwrap().push(hint);
        if self.gated.load(Ordering::SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        assert!(
            !self.panics.lock().unwrap().contains(&run),
            "a panic that a test asked for"
        );
        self.finished.fetch_add(1, Ordering::SeqCst);
    }
}

/// A running consumer.
#[derive(Debug)]
pub struct Consumer {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Consumer {
    pub fn start(queue: &Arc<dyn Queue>, probe: &Arc<Probe>, concurrency: usize) -> Self {
        let stop = CancellationToken::new();
        let (queue, handler) = (Arc::clone(queue), Arc::clone(probe));
        let token = stop.clone();
        let task = tokio::spawn(async move {
            queue
                .consume(handler, concurrency, token)
                .await
                .expect("consuming ends well");
        });
        Self { stop, task }
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the consumer ends when it is asked to")
            .expect("the consumer does not panic");
    }
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    waiting::until(what, async || condition()).await;
}

/// Hints for the runs of a range.
pub fn hints(runs: std::ops::RangeInclusive<i64>) -> Vec<Hint> {
    runs.map(|run| Hint::new(RunId(run))).collect()
}
