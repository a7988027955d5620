//! How a scenario's check is expected to end.

use super::Expectation;
use crate::domain::report::Overall;
use crate::domain::{Outcome, Reason};

pub(super) const HEALTH_CHECK: &str = "health_check";
pub(super) const INTUNE: &str = "intune";
pub(super) const CONDITIONAL_ACCESS: &str = "conditional_access";

pub(super) const fn ready(module: &'static str) -> Expectation {
    succeeded(module, Overall::Ready, &[])
}

pub(super) const fn succeeded(
    module: &'static str,
    overall: Overall,
    reasons: &'static [Reason],
) -> Expectation {
    Expectation {
        module,
        outcome: Outcome::Succeeded,
        overall,
        reasons,
        exhausts_limits: false,
    }
}

pub(super) const fn failed(reasons: &'static [Reason]) -> Expectation {
    failed_module(HEALTH_CHECK, reasons)
}

pub(super) const fn failed_module(module: &'static str, reasons: &'static [Reason]) -> Expectation {
    Expectation {
        module,
        outcome: Outcome::Failed,
        overall: Overall::Blocked,
        reasons,
        exhausts_limits: false,
    }
}

/// Failed, but only after everything that verifyd tries against it.
pub(super) const fn exhausted(reasons: &'static [Reason]) -> Expectation {
    Expectation {
        exhausts_limits: true,
        ..failed(reasons)
    }
}
