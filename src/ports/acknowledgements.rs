//! Stores acknowledgements.

use crate::domain::access::Binding;
use crate::domain::acknowledgement::Acknowledgement;
use crate::domain::audit::Origin;
use crate::domain::report::CheckStatus;
use crate::domain::{AcknowledgementId, ConnectionId, Reason, RunId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// An acknowledgement to record: a check of a completed run, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAcknowledgement {
    pub run: RunId,
    /// The connection that the run's report is about; later runs of it inherit the acknowledgement.
    pub connection: Option<ConnectionId>,
    pub check_key: String,
    pub status: CheckStatus,
    pub reason_code: Option<Reason>,
    pub reason: String,
    pub acknowledged_by: String,
    pub through: Origin,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Which acknowledgements to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcknowledgementFilter {
    pub binding: Binding,
    pub run: Option<RunId>,
    pub connection: Option<ConnectionId>,
    /// Neither withdrawn nor expired.
    pub active_only: bool,
    /// Only ids below this one (paging).
    pub before: Option<AcknowledgementId>,
    pub limit: u32,
}

/// Acknowledgements, and how they carry on.
#[async_trait]
pub trait AcknowledgementStore: Send + Sync {
    /// Records it. If an active one exists on the same check of the same run, that one is returned and the
    /// flag is false. `None`: the run is not, or no longer, completed at a time that has passed, so nobody would
    /// find it.
    async fn acknowledge(
        &self,
        new: &NewAcknowledgement,
    ) -> Result<Option<(Acknowledgement, bool)>, StoreError>;

    /// Marks it as withdrawn; it stays as history. One that was withdrawn before is returned as it
    /// is. None: no such acknowledgement.
    async fn withdraw(
        &self,
        id: AcknowledgementId,
        by: &str,
        through: &Origin,
    ) -> Result<Option<Acknowledgement>, StoreError>;

    /// One acknowledgement.
    async fn acknowledgement(
        &self,
        id: AcknowledgementId,
    ) -> Result<Option<Acknowledgement>, StoreError>;

    /// Lists the acknowledgements made on this run, withdrawn and expired ones included, and those that it
    /// inherits: made on an earlier run of its connection, on a check whose status and reason code have been
    /// the same in every run since. Oldest first.
    async fn acknowledgements_of(&self, run: RunId) -> Result<Vec<Acknowledgement>, StoreError>;

    /// By filter.
    async fn acknowledgements(
        &self,
        filter: &AcknowledgementFilter,
    ) -> Result<Vec<Acknowledgement>, StoreError>;
}
