//! Records runs.

use crate::domain::access::Binding;
use crate::domain::{ConnectionId, RunId, SessionId, TenantId, WorkspaceId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// A run to be recorded.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub workspace_id: WorkspaceId,
    pub tenant_id: Option<TenantId>,
    /// `operation_runs.context`
    pub context: serde_json::Value,
    /// A connection: if it has an active run of the same workspace and tenant, that run is returned and none
    /// is recorded.
    pub unless_active: Option<ConnectionId>,
    /// The onboarding session that the run is for. The same transaction points it to the run, or to the
    /// active run that is returned. A session of another workspace or tenant, or out of the caller's reach,
    /// is refused, and nothing is recorded.
    pub onboarding_session: Option<ForSession>,
}

/// The onboarding session that a run is recorded for, with the caller's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForSession {
    pub id: SessionId,
    /// The caller's reach: a session outside of it does not exist for the caller.
    pub reach: Binding,
}

impl NewRun {
    /// Refuses what can only be recorded on its own.
    pub fn plain(several: &[Self]) -> Result<(), StoreError> {
        let special = |new: &Self| new.unless_active.is_some() || new.onboarding_session.is_some();
        if several.iter().any(special) {
            return Err(StoreError::Refused(
                "runs with unless_active or onboarding_session are recorded one by one".into(),
            ));
        }
        Ok(())
    }
}

/// The answer to recording a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub run_id: RunId,
    /// False when an active run of the same connection was there already.
    pub created: bool,
}

/// Records runs.
#[async_trait]
pub trait RecordingStore: Send + Sync {
    /// Records a run as `queued` and marks it as delivered: the caller sends the hint.
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError>;

    /// Records several runs in one transaction, as [`RunStore::record`] does with one, and returns their ids
    /// in order. They are recorded whatever is active. If one of them has `unless_active` or
    /// `onboarding_session`, all are refused.
    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError>;
}
