//! A run or session with all its data.

use super::acknowledgement::Acknowledgement;
use super::attempt::AttemptRecord;
use super::budget::BudgetKey;
use super::names::text_enum;
use super::onboarding::OnboardingSession;
use super::run::OperationRun;
use chrono::{DateTime, Utc};

/// A run with its related data, which views are built from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    pub run: OperationRun,
    /// Oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// Its own, and those that it inherits; oldest first.
    pub acknowledgements: Vec<Acknowledgement>,
    /// The run of the previous report of the connection. `None` when there is none, or it was deleted.
    pub previous: Option<OperationRun>,
    /// `None`: nothing keeps it from being claimed.
    pub wait: Option<RunWait>,
}

text_enum! {
    /// How the last attempt of a run ended that waits for the next one.
    pub enum WaitCause: "cause" {
        /// The provider throttles.
        Throttled => "throttled",
        /// The database refused the result.
        Refused => "refused",
        /// It failed in another way, or was lost.
        Failed => "failed",
    }
}

/// Until when, and why, a queued run waits that was claimed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunWait {
    /// When it may be claimed again.
    pub until: DateTime<Utc>,
    pub cause: WaitCause,
    /// The budget of its application, where the provider throttles and that is limited. Its own directory may have been
    /// throttled all the same.
    pub budget: Option<BudgetKey>,
    /// With what the database refused the result.
    pub database_refusal: Option<String>,
}

/// An onboarding session with the run that it points to.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub session: OnboardingSession,
    /// None: it points to none, or to one that is gone, or not of its workspace and tenant.
    pub run: Option<RunRecord>,
}
