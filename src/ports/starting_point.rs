//! The starting point of a check: its connection, the credential, and facts from earlier checks.

use crate::domain::connection::{ProviderConnection, StoredCredential};
use crate::domain::connection_facts::KeptFacts;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// The starting point of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct StartingPoint {
    pub connection: ProviderConnection,
    pub credential: Option<StoredCredential>,
    /// The run of the connection's latest report.
    pub latest_run: Option<RunId>,
    /// Facts from earlier checks.
    pub facts: Option<KeptFacts>,
}

/// Reads starting points, and keeps the facts that checks find out.
#[async_trait]
pub trait StartingPointStore: Send + Sync {
    /// Returns the starting point for a check of this connection.
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError>;

    /// Keeps facts, in place of the ones kept before.
    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError>;
}
