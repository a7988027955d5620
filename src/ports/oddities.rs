//! What producers have written that will never be worked on: so that getting it wrong is seen.

use crate::domain::RunId;
use crate::ports::store::StoreError;
use async_trait::async_trait;
use serde::Serialize;

/// A row of `operation_runs` of verifyd's type that no worker will ever claim, or that somebody
/// completed improperly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OddRun {
    pub operation_run_id: RunId,
    /// The column at fault.
    pub column: &'static str,
    /// What it holds, cut and cleaned, and what is allowed.
    pub problem: String,
}

/// Looks for odd rows.
#[async_trait]
pub trait OddityStore: Send + Sync {
    /// Among the `latest` rows of the table, at most `limit`, newest first.
    async fn odd_runs(&self, latest: u32, limit: u32) -> Result<Vec<OddRun>, StoreError>;
}
