//! What pages and the API show of many connections and runs at once. Bounded reads: none looks at
//! more rows than its limits say.

use crate::domain::access::Binding;
use crate::domain::connection::ConnectionStatus;
use crate::domain::names::text_enum;
pub use crate::domain::overview::{
    ConnectionCounts, ConnectionState, History, HistorySlice, LatestReport, TrendPoint, WaitingRun,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// In which order connections are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionSort {
    /// By their ids.
    #[default]
    Id,
    /// By when their credentials expire, the earliest first; what never does, or is unknown, last.
    Expiry,
}
text_enum!(ConnectionSort, "sort", Id => "id", Expiry => "expiry");

/// Which connections to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    pub binding: Binding,
    pub tenant: Option<TenantId>,
    pub status: Option<ConnectionStatus>,
    /// Only those whose latest report says so: `ready`, `needs_attention`, `blocked`; `never` for
    /// those that were never checked.
    pub overall: Option<String>,
    /// Part of the display name, in any case (with SQLite: of ASCII letters).
    pub name: Option<String>,
    pub sort: ConnectionSort,
    /// Only what comes after this connection in that order (paging).
    pub after: Option<ConnectionId>,
    pub limit: u32,
}

/// Reads over many rows.
#[async_trait]
pub trait OverviewStore: Send + Sync {
    /// Connections with their latest report.
    async fn connection_states(
        &self,
        filter: &ConnectionFilter,
    ) -> Result<Vec<ConnectionState>, StoreError>;

    /// One connection with its latest report. None: no such connection, or out of reach.
    async fn connection_state(
        &self,
        id: ConnectionId,
        binding: &Binding,
    ) -> Result<Option<ConnectionState>, StoreError>;

    /// How many connections are in which state.
    async fn connection_counts(&self, binding: &Binding) -> Result<ConnectionCounts, StoreError>;

    /// The last runs of each of these connections that have a report, oldest first within each.
    /// Follows the chain of reports, from each to the one before: so it needs no index on a table
    /// that may be another application's, and ends where a run was pruned.
    async fn trend(
        &self,
        connections: &[ConnectionId],
        runs_each: u32,
    ) -> Result<Vec<TrendPoint>, StoreError>;

    /// What was completed within `period`, cut into `slices`; looks at `most` runs, the latest, and
    /// at no more than twenty times as many rows of a table that holds other runs, too.
    async fn history(
        &self,
        binding: &Binding,
        period: Duration,
        slices: u32,
        most: u32,
    ) -> Result<History, StoreError>;

    /// The runs that have waited longest.
    async fn longest_waiting(
        &self,
        binding: &Binding,
        limit: u32,
    ) -> Result<Vec<WaitingRun>, StoreError>;
}
