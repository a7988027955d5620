//! When a run was recorded, claimed and completed, and what happened in between.

use crate::domain::attempt::{AttemptEnd, AttemptRecord};
use crate::domain::run::{OperationRun, RunStatus};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// The times of a run.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Timeline {
    /// Null where another application's table holds none.
    pub recorded_at: Option<DateTime<Utc>>,
    /// The first claim.
    pub claimed_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Milliseconds from recorded to the first claim; until now while it waits for that.
    #[schema(value_type = Option<usize>)]
    pub waited_ms: Option<i64>,
    /// Milliseconds from the first claim to completed; until now while it is not.
    #[schema(value_type = Option<usize>)]
    pub worked_ms: Option<i64>,
    /// Oldest first.
    pub attempts: Vec<AttemptView>,
}

/// One attempt at a run.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    #[schema(value_type = usize, minimum = 1)]
    pub attempt: i32,
    pub worker_id: String,
    /// Whether it uses up one of the run's attempts.
    pub counted: bool,
    pub claimed_at: DateTime<Utc>,
    /// Null: no end is recorded. Its lease may have ended all the same.
    pub ended_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<String>)]
    pub end_reason: Option<AttemptEnd>,
    /// With what the database refused its result or, where it did not, to queue the run again: the code of its error, and
    /// the rule where its name is known. `end` names both.
    pub database_refusal: Option<String>,
    /// Milliseconds that it took, or has taken so far.
    #[schema(value_type = usize)]
    pub took_ms: i64,
    /// How it ended, in words.
    pub end: String,
}

impl Timeline {
    /// Clocks may disagree where an application writes its own times: nothing gets negative.
    pub fn of(run: &OperationRun, attempts: &[AttemptRecord], now: DateTime<Utc>) -> Self {
        let claimed_at = attempts
            .iter()
            .map(|a| a.claimed_at)
            .min()
            .or(run.started_at);
        let open = run.status != RunStatus::Completed;
        let end_of_wait = claimed_at.or_else(|| open.then_some(now));
        let end_of_work = run.completed_at.or_else(|| open.then_some(now));
        Self {
            recorded_at: run.created_at,
            claimed_at,
            completed_at: run.completed_at,
            waited_ms: milliseconds(run.created_at, end_of_wait),
            worked_ms: milliseconds(claimed_at, end_of_work),
            attempts: attempts.iter().map(|a| AttemptView::of(a, now)).collect(),
        }
    }
}

impl AttemptView {
    fn of(attempt: &AttemptRecord, now: DateTime<Utc>) -> Self {
        let end = attempt.ended_at.unwrap_or(now);
        Self {
            attempt: attempt.attempt,
            worker_id: attempt.worker_id.clone(),
            counted: attempt.counted,
            claimed_at: attempt.claimed_at,
            ended_at: attempt.ended_at,
            end_reason: attempt.end_reason,
            database_refusal: attempt
                .result_refusal
                .as_ref()
                .or(attempt.requeue_refusal.as_ref())
                .cloned(),
            took_ms: not_negative(end - attempt.claimed_at),
            end: end_words(attempt),
        }
    }
}

/// Returns how an attempt ended, and what the database refused.
fn end_words(attempt: &AttemptRecord) -> String {
    let end = match attempt.end_reason {
        None if attempt.requeue_refusal.is_some() => "its lease has ended",
        None => "in progress",
        Some(AttemptEnd::Completed) => "completed the run",
        Some(AttemptEnd::Throttled) => "released: the provider throttles",
        Some(AttemptEnd::Shutdown) => "released: the worker was stopped",
        Some(AttemptEnd::Error) => "released after an error in verifyd",
        Some(AttemptEnd::WorkerLost) => "lost: no heartbeat of the worker, or its deadline passed",
        Some(AttemptEnd::Superseded) => "lost: another writer queued the run again",
    };
    match (&attempt.result_refusal, &attempt.requeue_refusal) {
        (Some(result), Some(requeue)) => format!(
            "the database refused the result ({result}), and to queue the run again ({requeue})"
        ),
        (Some(refusal), None) => format!("the database refused the result ({refusal})"),
        (None, Some(refusal)) => {
            format!("{end}; the database refused to queue the run again ({refusal})")
        }
        (None, None) => end.to_owned(),
    }
}

fn milliseconds(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<i64> {
    Some(not_negative(to? - from?))
}

fn not_negative(time: TimeDelta) -> i64 {
    time.num_milliseconds().max(0)
}
