//! Invalid runs: rows that producers got wrong, so that somebody can see them.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;

/// A row of `operation_runs` of verifyd's type that can never be claimed, whose id other runs have, too, that another writer
/// completed improperly, that holds an impossible time, or that was blocked because its context could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvalidRun {
    pub operation_run_id: RunId,
    /// The column at fault.
    pub column: &'static str,
    /// Its value, shortened and cleaned, and what is allowed.
    pub problem: String,
    /// What mends it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Looks for invalid runs.
#[async_trait]
pub trait InvalidRunStore: Send + Sync {
    /// Returns the invalid runs among the `latest` rows of the table, at most `limit`, newest first. Those that share an id
    /// are also looked for among the first runs that are not completed.
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError>;

    /// Returns the run of this id if its row is invalid, whether others have its id or not.
    async fn invalid_run(&self, id: RunId) -> Result<Option<InvalidRun>, StoreError>;
}
