//! What a process does at the moment.

use super::Observed;
use crate::engine::scheduling::in_flight::InFlightRun;
use crate::ports::pools::PoolState;
use crate::telemetry::build_info::BUILD;
use crate::telemetry::log_filter::LogFilterState;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Timeout of the queue for its length: the state is shown all the same.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(2);

/// What a process does at the moment. It names runs and connections, and no tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebugState {
    pub worker: String,
    pub version: String,
    pub uptime_seconds: u64,
    pub stopping: bool,
    /// For how long it may claim and complete without another heartbeat; `None` before the first one.
    pub lease_seconds: Option<f64>,
    pub slots: Slots,
    /// The oldest first.
    pub runs: Vec<InFlightRun>,
    pub queue: QueueState,
    pub database: Connections,
    pub log_filter: LogFilterState,
}

/// The concurrency slots, without those for fair queuing. One may be taken while no run is in flight: its hint waits
/// for a database that does not answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Slots {
    pub total: usize,
    pub free: usize,
}

/// The queue as its consumer sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueState {
    pub kind: String,
    /// `None`: no answer.
    pub waiting: Option<u64>,
    pub connected: bool,
    /// Whether runs are taken from the database instead.
    pub polling: bool,
    /// Since the consumer's last activity.
    pub idle_seconds: Option<f64>,
    pub restarts: u64,
    pub dead_letters: u64,
}

/// The connections to the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    pub kind: String,
    pub pools: Vec<PoolState>,
}

impl Observed {
    pub(super) async fn state(&self) -> DebugState {
        let (worker, health) = (&self.worker, self.queue.health());
        let depth = tokio::time::timeout(DEPTH_TIMEOUT, self.queue.depth()).await;
        DebugState {
            worker: worker.id.to_string(),
            version: BUILD.version.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            stopping: self.stopping.is_cancelled(),
            lease_seconds: worker.lease.left().map(|left| left.as_secs_f64()),
            slots: Slots {
                total: worker.settings.concurrency,
                free: worker.slots.free(),
            },
            runs: worker.in_flight.list(),
            queue: QueueState {
                kind: self.queue.kind().to_owned(),
                waiting: depth.ok().and_then(Result::ok),
                connected: health.connected,
                polling: self.reconciler.polling.load(Ordering::Relaxed),
                idle_seconds: health.last_activity.map(|idle| idle.as_secs_f64()),
                restarts: health.restarts,
                dead_letters: health.dead_letters,
            },
            database: Connections {
                kind: self.store.kind().to_owned(),
                pools: self.store.pools(),
            },
            log_filter: self.log_filter.state(),
        }
    }
}

impl DebugState {
    /// Logs a line for the process, and one for each run in flight.
    pub(super) fn log(&self) {
        let queue = &self.queue;
        tracing::info!(
            worker = self.worker,
            uptime_seconds = self.uptime_seconds,
            stopping = self.stopping,
            lease_seconds = self.lease_seconds,
            slots = self.slots.total,
            free_slots = self.slots.free,
            in_flight = self.runs.len(),
            hints_waiting = queue.waiting,
            queue_connected = queue.connected,
            polling = queue.polling,
            connections = connections(&self.database),
            "state of this process"
        );
        for run in &self.runs {
            tracing::info!(
                run = run.run.0,
                connection = run.connection.map(|id| id.0),
                attempt = run.attempt,
                phase = run.phase.as_str(),
                phase_seconds = run.phase_seconds,
                seconds = run.seconds,
                lease_seconds = run.lease_seconds,
                calls = calls(run),
                "run in flight"
            );
        }
    }
}

/// The connections to the database, for people.
pub(crate) fn connections(database: &Connections) -> String {
    let pools = database.pools.iter();
    let pools = pools.map(|pool| {
        format!(
            "{}: {} used, {} idle, {} at most",
            pool.name, pool.used, pool.idle, pool.max
        )
    });
    pools.collect::<Vec<_>>().join("; ")
}

/// The open calls of a run, for people.
pub(crate) fn calls(run: &InFlightRun) -> String {
    let calls = run.calls.iter().map(|open| match open.attempt {
        1 => format!("{} {:.1} s", open.call, open.seconds),
        attempt => format!("{} {:.1} s, attempt {attempt}", open.call, open.seconds),
    });
    calls.collect::<Vec<_>>().join("; ")
}
