//! What a check starts from: its connection, the credential, and what earlier checks have learnt.

use crate::domain::connection::{ProviderConnection, StoredCredential};
use crate::domain::connection_facts::KeptFacts;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// What a check starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct StartingPoint {
    pub connection: ProviderConnection,
    pub credential: Option<StoredCredential>,
    /// The run of the connection's latest report.
    pub latest_run: Option<RunId>,
    /// What earlier checks have learnt of it.
    pub facts: Option<KeptFacts>,
}

/// Reads what a check starts from, and keeps what it has learnt.
#[async_trait]
pub trait StartingPointStore: Send + Sync {
    /// What a check of this connection starts from.
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError>;

    /// Keeps what a check has learnt, in place of what was kept before.
    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError>;
}
