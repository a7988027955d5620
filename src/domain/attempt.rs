//! Attempts: which worker processed a run, when, and how that ended.

use super::names::text_enum;
use chrono::{DateTime, Utc};
use serde::Serialize;

/// Why an attempt ended: `run_attempts.end_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The run was completed by it.
    Completed,
    /// The provider asked to wait. Does not count.
    Throttled,
    /// The worker was stopped. Does not count.
    Shutdown,
    /// Something in verifyd failed.
    Error,
    /// The heartbeat of its worker stopped, or its deadline passed.
    WorkerLost,
    /// Another writer put the run back to `queued`.
    Superseded,
}
text_enum!(
    AttemptEnd, "end_reason",
    Completed => "completed", Throttled => "throttled", Shutdown => "shutdown", Error => "error",
    WorkerLost => "worker_lost", Superseded => "superseded",
);

impl AttemptEnd {
    /// Returns whether an attempt with this end uses up one of the run's attempts.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Throttled | Self::Shutdown)
    }
}

/// One row of the history of attempts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptRecord {
    pub attempt: i32,
    pub worker_id: String,
    pub counted: bool,
    pub claimed_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub end_reason: Option<AttemptEnd>,
}
