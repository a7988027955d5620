//! What a queued run waits for: for a worker if it is due, else for its next attempt.

use super::words::span;
use crate::domain::run_record::{RunWait, WaitCause};
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
    /// `throttled`: the provider throttles; `refused`: the database refused the result; `failed`: the last attempt failed
    /// in another way, or was lost.
    #[schema(value_type = String)]
    pub cause: WaitCause,
    /// The run's application, where the provider throttles it across its directories.
    pub client_id: Option<String>,
    pub cloud: Option<String>,
    /// With what the database refused the result: the code of its error, and the rule where its name is known.
    pub database_refusal: Option<String>,
}

impl WaitingView {
    pub fn of(wait: &RunWait) -> Self {
        let budget = wait.budget.as_ref();
        Self {
            until: wait.until,
            cause: wait.cause,
            client_id: budget.map(|budget| budget.client_id.to_string()),
            cloud: budget.map(|budget| budget.cloud.clone()),
            database_refusal: wait.database_refusal.clone(),
        }
    }

    /// Returns it as a sentence.
    pub fn sentence(&self, now: DateTime<Utc>) -> String {
        let seconds = (self.until - now).num_seconds().max(1);
        let time = span(seconds * 1_000);
        let why = match (self.cause, &self.client_id) {
            (WaitCause::Throttled, Some(id)) => {
                format!("the provider throttles the application {id}")
            }
            (WaitCause::Throttled, None) => "the provider throttles".to_owned(),
            (WaitCause::Refused, _) => {
                let refusal = self.database_refusal.as_deref().unwrap_or_default();
                format!("the database refused the result ({refusal})")
            }
            (WaitCause::Failed, _) => return waiting(Some(self.until)),
        };
        format!("Waiting because {why}: about {time}.")
    }
}
