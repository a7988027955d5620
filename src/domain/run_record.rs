//! A run or session with all its data.

use super::acknowledgement::Acknowledgement;
use super::attempt::AttemptRecord;
use super::onboarding::OnboardingSession;
use super::run::OperationRun;

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
}

/// An onboarding session with the run that it points to.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub session: OnboardingSession,
    /// None: it points to none, or to one that is gone, or not of its workspace and tenant.
    pub run: Option<RunRecord>,
}
