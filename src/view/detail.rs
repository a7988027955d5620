//! One run with all that belongs to it.

use super::diff::DiffView;
use super::report::{RUNNING, RunView};
use super::timeline::Timeline;
use super::waiting::WaitingView;
use crate::domain::attempt::AttemptRecord;
use crate::domain::run::RunStatus;
use crate::domain::run_record::RunRecord;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// A run with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunView,
    /// Until when, and why, a queued run is not claimed that was claimed before; null where nothing keeps it.
    pub waiting: Option<WaitingView>,
    pub timeline: Timeline,
    pub diff: DiffView,
}

impl RunDetail {
    pub fn of(record: &RunRecord, now: DateTime<Utc>) -> Self {
        let mut run = RunView::of(&record.run, &record.acknowledgements, now);
        let waiting = record.wait.as_ref().map(WaitingView::of);
        let last = record.attempts.last();
        let last = last.filter(|_| record.run.status == RunStatus::Running);
        match (&waiting, last) {
            // What else is known of the id may be another run's.
            _ if run.shares_id => {}
            (Some(waiting), _) => run.verdict = waiting.sentence(now),
            (None, Some(last)) => run.verdict = running(last),
            (None, None) => {}
        }
        Self {
            run,
            waiting,
            timeline: Timeline::of(&record.run, &record.attempts, now),
            diff: DiffView::of(&record.run, record.previous.as_ref()),
        }
    }
}

/// The verdict over a running run. `last`: its last attempt.
fn running(last: &AttemptRecord) -> String {
    let ended = match last.ended_at {
        Some(_) => "attempt",
        None => "lease",
    };
    match (&last.result_refusal, &last.requeue_refusal) {
        (Some(result), Some(requeue)) => format!(
            "The database refused its result ({result}). Its {ended} has ended, and the database refuses to queue it again \
             ({requeue})."
        ),
        (None, Some(requeue)) => format!(
            "Its {ended} has ended, and the database refuses to queue it again ({requeue})."
        ),
        (Some(result), None) => format!(
            "The database refused its result ({result}). No worker works on it until it is queued again."
        ),
        // The run may have been completed since it was read.
        (None, None) if last.ended_at.is_some() => RUNNING.to_owned(),
        (None, None) => "Being checked right now.".to_owned(),
    }
}
