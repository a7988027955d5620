//! What a queued run waits for: for a worker if it is due, else for its next attempt.

use super::words::span;
use crate::domain::run_record::NextAttempt;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// The verdict over a queued run, as far as its row and the time of its next attempt say.
pub(super) fn waiting(next_attempt_at: Option<DateTime<Utc>>) -> String {
    match next_attempt_at {
        None => "Waiting for a worker.".to_owned(),
        Some(at) => format!("Next attempt at {}.", at.format("%Y-%m-%d %H:%M:%S UTC")),
    }
}

/// Until when a queued run waits for its next attempt.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Waiting)]
pub struct WaitingView {
    /// When it may be claimed again.
    pub until: DateTime<Utc>,
    /// Whether it waits because the provider throttles.
    pub throttled: bool,
    /// The run's application, where the provider throttles it across its directories.
    pub client_id: Option<String>,
    pub cloud: Option<String>,
}

impl WaitingView {
    pub fn of(next: &NextAttempt) -> Self {
        let budget = next.budget.as_ref();
        Self {
            until: next.at,
            throttled: next.is_throttled,
            client_id: budget.map(|budget| budget.client_id.to_string()),
            cloud: budget.map(|budget| budget.cloud.clone()),
        }
    }

    /// Returns it as a sentence.
    pub fn sentence(&self, now: DateTime<Utc>) -> String {
        if !self.throttled {
            return waiting(Some(self.until));
        }
        let seconds = (self.until - now).num_seconds().max(1);
        let time = span(seconds * 1_000);
        match &self.client_id {
            Some(id) => {
                format!(
                    "Waiting because the provider throttles the application {id}: about {time}."
                )
            }
            None => format!("Waiting because the provider throttles: about {time}."),
        }
    }
}
