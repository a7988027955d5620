//! Why a queued run is not claimed yet.

use super::words::span;
use crate::domain::names::text_enum;
use crate::domain::run_record::ProviderWait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

text_enum! {
    /// What a queued run waits for.
    pub enum WaitingReason: "waiting.reason" {
        /// The provider throttles the application across its directories, and verifyd holds its requests back.
        ApplicationBudget => "application_budget",
        /// The provider refuses requests for now.
        ProviderThrottled => "provider_throttled",
    }
}

/// Why a queued run is not claimed yet.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Waiting)]
pub struct WaitingView {
    /// `application_budget`: verifyd holds the requests of the application back, which the provider
    /// throttles across its directories; `provider_throttled`: the provider refuses requests for now.
    #[schema(value_type = String)]
    pub reason: WaitingReason,
    /// When it may be claimed again.
    pub until: DateTime<Utc>,
    /// The application whose budget it waits for.
    pub client_id: Option<String>,
    pub cloud: Option<String>,
}

impl WaitingView {
    pub fn of(wait: &ProviderWait) -> Self {
        let (client_id, cloud) = match wait.budget.clone() {
            Some(budget) => (Some(budget.client_id.to_string()), Some(budget.cloud)),
            None => (None, None),
        };
        Self {
            reason: match client_id {
                Some(_) => WaitingReason::ApplicationBudget,
                None => WaitingReason::ProviderThrottled,
            },
            until: wait.until,
            client_id,
            cloud,
        }
    }

    /// Returns it as a sentence.
    pub fn sentence(&self, now: DateTime<Utc>) -> String {
        let seconds = (self.until - now).num_seconds().max(1);
        let time = span(seconds * 1_000);
        match &self.client_id {
            Some(id) => format!(
                "Waiting for the budget of the application {id}, which Microsoft throttles: about {time}."
            ),
            None => format!("Waiting because the provider throttles: about {time}."),
        }
    }
}
