//! Runs of which the database, by a rule of the application such as a trigger or a constraint, refuses what verifyd writes.

use crate::domain::{RunId, TenantId};
use crate::ports::claims::Claim;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// What the database refuses of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedWrite {
    /// To complete it: it is tried again.
    Result,
    /// To queue it again: it stays `running`, and nobody works on it.
    Requeue,
}

/// A run that is not completed, and that the database refused to write at the last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRun {
    pub operation_run_id: RunId,
    pub tenant_id: Option<TenantId>,
    pub write: RefusedWrite,
    /// See [`StoreError::refusal`].
    pub refusal: String,
}

/// Refused runs, as far as they were looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRuns {
    /// In the order of their ids.
    pub runs: Vec<RefusedRun>,
    /// Whether there are no others.
    pub are_all: bool,
}

/// Records and finds refusals.
#[async_trait]
pub trait RefusalStore: Send + Sync {
    /// Records with what ([`StoreError::refusal`]) the database refused the result of this attempt, where its
    /// release failed, too. Writes nothing of the application, so that the same rule cannot refuse this.
    async fn note_refused_result(&self, claim: &Claim, refusal: &str) -> Result<(), StoreError>;

    /// Returns the refused runs among those of the `most` latest attempts of which something was refused, and among as many
    /// of the oldest queued and of the oldest running ones.
    async fn refused_runs(&self, most: u32) -> Result<RefusedRuns, StoreError>;
}
