//! A run or session with all its data.

use super::acknowledgement::Acknowledgement;
use super::attempt::AttemptRecord;
use super::budget::BudgetKey;
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
    /// `None`: it is due, or not queued.
    pub next_attempt: Option<NextAttempt>,
}

/// What a queued run waits for that is not due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextAttempt {
    /// When it may begin.
    pub at: DateTime<Utc>,
    /// Whether the run was released because its provider throttles.
    pub is_throttled: bool,
    /// The budget of its application, where that is limited. Its own directory may have been throttled all the same.
    pub budget: Option<BudgetKey>,
}

/// An onboarding session with the run that it points to.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub session: OnboardingSession,
    /// None: it points to none, or to one that is gone, or not of its workspace and tenant.
    pub run: Option<RunRecord>,
}
