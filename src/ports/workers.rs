//! Stores worker processes: a lease is alive while its worker sends heartbeats.

use crate::domain::WorkerId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// A worker process that sent a heartbeat within the last day.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerRecord {
    pub worker_id: String,
    pub version: String,
    /// Runs that it works on at a time, at most.
    pub concurrency: u32,
    /// Runs that it works on now.
    pub in_flight: u32,
    pub started_at: DateTime<Utc>,
    pub last_heartbeat_at: DateTime<Utc>,
}

impl WorkerRecord {
    /// Returns whether its last heartbeat is at most `dead_after` old. Clocks may differ: one in the future is not old.
    pub fn is_alive(&self, now: DateTime<Utc>, dead_after: Duration) -> bool {
        (now - self.last_heartbeat_at)
            .to_std()
            .map_or(true, |age| age <= dead_after)
    }

    /// Returns the name of the group of workspaces whose runs it claims.
    pub fn group(&self) -> &str {
        WorkerId::group_of(&self.worker_id)
    }
}

/// Counts the workers of a group that are alive.
pub fn alive_in_group(
    workers: &[WorkerRecord],
    group: &str,
    now: DateTime<Utc>,
    dead_after: Duration,
) -> usize {
    let alive = workers.iter().filter(|w| w.is_alive(now, dead_after));
    alive.filter(|worker| worker.group() == group).count()
}

/// What a worker reports with each heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub worker_id: WorkerId,
    pub version: String,
    pub concurrency: u32,
    pub in_flight: u32,
}

/// Keeps the list of workers.
#[async_trait]
pub trait WorkerStore: Send + Sync {
    /// Renews this worker's lease on all its runs. Returns the time of that, by the database's clock.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<DateTime<Utc>, StoreError>;

    /// Takes the worker off the list.
    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// Lists workers with a heartbeat within the last day.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError>;
}
