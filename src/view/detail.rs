//! One run with all that belongs to it.

use super::diff::DiffView;
use super::report::RunView;
use super::timeline::Timeline;
use super::waiting::WaitingView;
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
    /// Until when a queued run waits for its next attempt; null where it is due.
    pub waiting: Option<WaitingView>,
    pub timeline: Timeline,
    pub diff: DiffView,
}

impl RunDetail {
    pub fn of(record: &RunRecord, now: DateTime<Utc>) -> Self {
        let mut run = RunView::of(&record.run, &record.acknowledgements, now);
        let waiting = record.next_attempt.as_ref().map(WaitingView::of);
        if let Some(waiting) = &waiting {
            run.verdict = waiting.sentence(now);
        }
        Self {
            run,
            waiting,
            timeline: Timeline::of(&record.run, &record.attempts, now),
            diff: DiffView::of(&record.run, record.previous.as_ref()),
        }
    }
}
