//! Attempts: which worker processed a run, when, and how that ended.

use super::names::text_enum;
use chrono::{DateTime, Utc};
use serde::Serialize;

text_enum! {
    /// Why an attempt ended: `run_attempts.end_reason`.
    pub enum AttemptEnd: "end_reason" {
        /// The run was completed by it.
        Completed => "completed",
        /// The provider throttles for longer than an attempt waits. Does not count.
        Throttled => "throttled",
        /// The worker was stopped, or the schema does not fit. Does not count.
        Shutdown => "shutdown",
        /// Something in verifyd failed.
        Error => "error",
        /// The heartbeat of its worker stopped, or its deadline passed.
        WorkerLost => "worker_lost",
        /// Another writer put the run back to `queued`.
        Superseded => "superseded",
    }
}

impl AttemptEnd {
    /// Returns whether an attempt with this end uses up one of the run's attempts.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Throttled | Self::Shutdown)
    }
}

/// One row of the history of attempts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptRecord {
    /// From 1, without those of an earlier run of the same id.
    pub attempt: i32,
    pub worker_id: String,
    pub counted: bool,
    pub claimed_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub end_reason: Option<AttemptEnd>,
    /// With what the database refused its result: the code of the error, and the rule where its name is known.
    pub result_refusal: Option<String>,
    /// The same, where it refused to queue the run again.
    pub requeue_refusal: Option<String>,
}
