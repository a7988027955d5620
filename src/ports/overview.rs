//! Reads for pages and the API over many connections and runs. Each read is bounded by its limits.

use crate::domain::access::Binding;
use crate::domain::connection::ConnectionStatus;
use crate::domain::names::text_enum;
pub use crate::domain::overview::{
    ConnectionCounts, ConnectionState, ExpiryKey, History, HistorySlice, LatestReport, TrendPoint,
    WaitingRun,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

text_enum! {
    /// In which order connections are listed.
    #[derive(Default)]
    pub enum ConnectionSort: "sort" {
        /// By their ids.
        #[default]
        Id => "id",
        /// By when their credentials expire, the earliest first; what never does, or is unknown, last.
        Expiry => "expiry",
    }
}

/// Where a page of connections ended. It carries what they are sorted by, so that the next page leaves nothing
/// out when that changes meanwhile, and nothing has to be looked up that may be out of reach.
///
/// As a text: the id where they are sorted by it; else the key of the expiry, or `never`, an underscore and the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCursor {
    Id(ConnectionId),
    Expiry(ExpiryKey, ConnectionId),
}

impl ConnectionCursor {
    /// Where a page in this order ends that ends with this connection.
    pub const fn at(last: &ConnectionState, sort: ConnectionSort) -> Self {
        match sort {
            ConnectionSort::Id => Self::Id(last.connection.id),
            ConnectionSort::Expiry => Self::Expiry(last.expiry_key, last.connection.id),
        }
    }

    /// The order that it belongs to.
    pub const fn sort(self) -> ConnectionSort {
        match self {
            Self::Id(_) => ConnectionSort::Id,
            Self::Expiry(..) => ConnectionSort::Expiry,
        }
    }
}

impl fmt::Display for ConnectionCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Expiry(ExpiryKey::NEVER, id) => write!(f, "never_{id}"),
            Self::Expiry(ExpiryKey(key), id) => write!(f, "{key}_{id}"),
        }
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("allowed: the cursor that the page before ends with")]
pub struct NoCursor;

impl FromStr for ConnectionCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let number = |text: &str| text.parse::<i64>().map_err(|_| NoCursor);
        // A row whose id is not from 1 is listed as unusable, and may end a page.
        let id = |text: &str| number(text).map(ConnectionId);
        let cursor = match text.split_once('_') {
            None => Self::Id(id(text)?),
            Some(("never", last)) => Self::Expiry(ExpiryKey::NEVER, id(last)?),
            Some((key, last)) => Self::Expiry(ExpiryKey(number(key)?), id(last)?),
        };
        let is_written_so = cursor.to_string() == text;
        is_written_so.then_some(cursor).ok_or(NoCursor)
    }
}

/// Which connections to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    pub binding: Binding,
    pub tenant: Option<TenantId>,
    pub status: Option<ConnectionStatus>,
    /// Only connections whose latest report has this result: `ready`, `needs_attention`, `blocked`; or
    /// `never` for those that were never checked.
    pub overall: Option<String>,
    /// Part of the display name, in any case (with SQLite: of ASCII letters).
    pub name: Option<String>,
    pub sort: ConnectionSort,
    /// Only what comes after this in the order that it belongs to (paging).
    pub after: Option<ConnectionCursor>,
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

    /// Returns the runs completed within `period`, divided into `slices`. Reads the latest `most` runs, and
    /// at most twenty times as many rows of a table that also contains other runs.
    async fn history(
        &self,
        binding: &Binding,
        period: Duration,
        slices: u32,
        most: u32,
    ) -> Result<History, StoreError>;

    /// The runs that have waited longest for a worker. One that was claimed before is found among the 1,000 oldest that are
    /// queued.
    async fn longest_waiting(
        &self,
        binding: &Binding,
        limit: u32,
    ) -> Result<Vec<WaitingRun>, StoreError>;
}
