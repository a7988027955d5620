//! Why a queued run is not claimed yet.

use super::words::span;
use crate::domain::run_record::ProviderWait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a queued run is not claimed yet.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Waiting)]
pub struct WaitingView {
    /// When it may be claimed again.
    pub until: DateTime<Utc>,
    /// The run's application, where the provider throttles it across its directories.
    pub client_id: Option<String>,
    pub cloud: Option<String>,
}

impl WaitingView {
    pub fn of(wait: &ProviderWait) -> Self {
        let budget = wait.budget.as_ref();
        Self {
            until: wait.until,
            client_id: budget.map(|budget| budget.client_id.to_string()),
            cloud: budget.map(|budget| budget.cloud.clone()),
        }
    }

    /// Returns it as a sentence.
    pub fn sentence(&self, now: DateTime<Utc>) -> String {
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
