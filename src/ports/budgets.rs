//! Stores the budgets of applications, which all replicas share.

use crate::domain::budget::{BudgetKey, Permits, Throttling};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// What a process asks of an application's budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermitRequest {
    /// Permits that it has use for now.
    pub wanted: u32,
    /// Set when the provider has throttled the application.
    pub throttling: Option<Throttling>,
}

/// A budget, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationBudget {
    pub key: BudgetKey,
    /// Requests per minute now.
    pub per_minute: u32,
    /// When the provider last throttled it.
    pub decreased_at: DateTime<Utc>,
}

/// Keeps a budget for each application that its provider has throttled.
#[async_trait]
pub trait BudgetStore: Send + Sync {
    /// Lowers the budget where the request says so, and takes permits from it. `None`: the application has no
    /// budget, or not any more.
    async fn permits(
        &self,
        key: &BudgetKey,
        request: &PermitRequest,
    ) -> Result<Option<Permits>, StoreError>;

    /// Lists the budgets that are not over, the lowest first.
    async fn budgets(&self) -> Result<Vec<ApplicationBudget>, StoreError>;
}
