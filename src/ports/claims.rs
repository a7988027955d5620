//! Claims, completes and releases runs.

use crate::domain::attempt::AttemptEnd;
use crate::domain::completion::Completion;
use crate::domain::run::ClaimedRun;
use crate::domain::{RunId, WorkerId};
use crate::ports::starting_point::StartingPoint;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// Number of failed completions after which the next claim is for a forced completion.
pub const MAX_FAILED_COMPLETIONS: u32 = 3;

/// How runs are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimPolicy {
    /// Largest number of counted attempts (N of the promise).
    pub max_attempts: u32,
    /// Longest time of the attempt's lease.
    pub lease: Duration,
    /// Whether a run may be claimed that requires isolation: the caller sees to it that no other such
    /// run is in flight in its process.
    pub isolated: bool,
}

/// The answer to a claim.
#[derive(Clone, Debug)]
pub enum ClaimAnswer {
    Claimed(Box<Claim>),
    /// The run is not there, not verifyd's, not queued, not due yet, or of another group.
    NotClaimable,
    /// Another transaction keeps it locked; nothing waits for it.
    Locked,
    /// It has one attempt left and has lost a worker before, or none is left: it may have killed the worker,
    /// or may only have been in flight at the same time. Nothing was written; claim it as isolated.
    RequiresIsolation,
}

impl ClaimAnswer {
    /// The claim, if there is one.
    pub fn claimed(self) -> Option<Claim> {
        match self {
            Self::Claimed(claim) => Some(*claim),
            Self::NotClaimable | Self::Locked | Self::RequiresIsolation => None,
        }
    }
}

/// The size of a run's context, and with it how the completion writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextSize {
    /// The completion's members are added to it, along with other runs'.
    Small,
    /// They are added to it in a transaction of its own.
    Large,
    /// Nothing of it stays: it is too large for the database to copy.
    Huge,
    /// It was not looked at; unless it is small, only what verifyd reads of it stays.
    Unknown,
    /// Only what verifyd reads of it stays: the database refuses to write more.
    Refused,
}

impl ContextSize {
    /// Returns how a forced completion writes the context after the database has refused to write it like this.
    /// `None`: nothing of it was to stay.
    pub fn reduced(self) -> Option<Self> {
        match self {
            Self::Small | Self::Large | Self::Unknown => Some(Self::Refused),
            Self::Refused => Some(Self::Huge),
            Self::Huge => None,
        }
    }
}

/// The right to work on a run, proven by the token.
#[derive(Clone, Debug)]
pub struct Claim {
    pub run: ClaimedRun,
    /// How the completion writes the run's context.
    pub context: ContextSize,
    /// Number of this attempt among all that the id has had: with the id its key in the database.
    pub attempt: i32,
    /// Number of this attempt of the run, from 1, the uncounted ones included.
    pub own_attempt: u32,
    /// Random; compared for equality by every later transition.
    pub token: Uuid,
    pub worker: WorkerId,
    /// Attempts that count, this one included unless `exhausted`.
    pub counted_attempts: u32,
    /// All counted attempts were spent before this claim. The provider must not be called again: the run is
    /// completed as `worker_lost`, or as `result_refused`. This attempt does not count.
    pub exhausted: bool,
    /// With what the database refused the result of the last counted attempt, if it did. Read where `exhausted`.
    pub result_refusal: Option<String>,
    /// Completing it failed [`MAX_FAILED_COMPLETIONS`] times, too. The context of the run was not read: the
    /// run is completed from its id alone.
    pub forced_completion: bool,
    /// When the run was first claimed, by the database's clock.
    pub first_claimed_at: DateTime<Utc>,
    /// When this attempt was claimed, by the database's clock.
    pub claimed_at: DateTime<Utc>,
    /// The starting point of the check, where it was read with the claim. `None`: read it separately.
    pub start: Option<StartingPoint>,
}

/// Takes runs, and gives them back.
#[async_trait]
pub trait ClaimStore: Send + Sync {
    /// `queued` → `running`, with a new attempt and token.
    async fn claim(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError>;

    /// `running` → `queued`, due again after `not_before` (from now). `refusal`: with what
    /// ([`StoreError::refusal`]) the database refused the result. `at_stop`: the process ends, and keeps no
    /// connection for other calls. False: the token is not the current one; nothing was written.
    async fn release(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
        refusal: Option<&str>,
        at_stop: bool,
    ) -> Result<bool, StoreError>;
}

/// Completes runs.
#[async_trait]
pub trait CompletionStore: Send + Sync {
    /// `running` → `completed`: run, report, failure summary, inventory and latest report in one
    /// transaction. False: the token is not the current one; nothing was written.
    async fn complete(&self, claim: &Claim, completion: &Completion) -> Result<bool, StoreError>;
}
