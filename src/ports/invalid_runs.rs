//! What producers have written that verifyd cannot work on: so that getting it wrong is seen.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;

/// A row of `operation_runs` of verifyd's type that no worker ever claims, that somebody completed
/// improperly, or that was blocked because its context could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvalidRun {
    pub operation_run_id: RunId,
    /// The column at fault.
    pub column: &'static str,
    /// What it holds, cut and cleaned, and what is allowed.
    pub problem: String,
}

/// Looks for invalid runs.
#[async_trait]
pub trait InvalidRunStore: Send + Sync {
    /// Among the `latest` rows of the table, at most `limit`, newest first.
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError>;
}
