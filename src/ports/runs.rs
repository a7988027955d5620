//! Reads runs, one by one and as lists show them.

use crate::domain::access::Binding;
use crate::domain::attempt::AttemptRecord;
use crate::domain::overview::LatestReport;
use crate::domain::run::{OperationRun, Outcome, RunState, RunStatus, RunSummary};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;

/// Which runs to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub binding: Binding,
    pub status: Option<RunStatus>,
    pub outcome: Option<Outcome>,
    pub connection: Option<ConnectionId>,
    pub tenant: Option<TenantId>,
    /// Only ids below this one (paging).
    pub before: Option<RunId>,
    pub limit: u32,
}

/// Numbers of runs of verifyd's type, and for how long the oldest has been due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunCounts {
    pub queued: u64,
    pub running: u64,
    /// Queued runs that may not be claimed yet, such as throttled ones.
    pub not_due: u64,
    /// Seconds since the oldest of the other queued runs was recorded or, where that was later, since its next attempt may
    /// begin.
    pub oldest_queued_seconds: Option<f64>,
}

impl RunCounts {
    /// Returns how many queued runs are due: these wait for a worker.
    pub fn due(&self) -> u64 {
        self.queued.saturating_sub(self.not_due)
    }
}

/// Reads runs and what belongs to them.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// Returns a run of verifyd's type. Of a context that is too large only the report and the members that
    /// identify the run's target are read.
    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError>;

    /// The attempts of a run, oldest first.
    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Returns when the next attempt at a queued run may begin. `None`: it is due, or not queued.
    async fn next_attempt_at(&self, run: RunId) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Counts for metrics and `doctor`.
    async fn counts(&self) -> Result<RunCounts, StoreError>;

    /// The latest report of a connection.
    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError>;
}

/// Reads runs as lists and live streams show them.
#[async_trait]
pub trait SummaryStore: Send + Sync {
    /// Runs of verifyd's type as lists show them, newest first.
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError>;

    /// One run as lists show it.
    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError>;

    /// How far one run is.
    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError>;

    /// How far the latest runs are, newest first.
    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError>;
}
