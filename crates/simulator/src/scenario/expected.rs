//! How a scenario's check is expected to end.

use super::Expectation;

pub(super) const HEALTH_CHECK: &str = "health_check";
pub(super) const INTUNE: &str = "intune";
pub(super) const CONDITIONAL_ACCESS: &str = "conditional_access";

pub(super) const READY: &str = "ready";
pub(super) const NEEDS_ATTENTION: &str = "needs_attention";
pub(super) const BLOCKED: &str = "blocked";

pub(super) const SUCCEEDED: &str = "succeeded";
pub(super) const FAILED: &str = "failed";

pub(super) const fn ready(module: &'static str) -> Expectation {
    succeeded(module, READY, &[])
}

pub(super) const fn succeeded(
    module: &'static str,
    overall: &'static str,
    reasons: &'static [&'static str],
) -> Expectation {
    Expectation {
        module,
        outcome: SUCCEEDED,
        overall,
        reasons,
        exhausts_limits: false,
    }
}

pub(super) const fn failed(reasons: &'static [&'static str]) -> Expectation {
    failed_module(HEALTH_CHECK, reasons)
}

pub(super) const fn failed_module(
    module: &'static str,
    reasons: &'static [&'static str],
) -> Expectation {
    Expectation {
        module,
        outcome: FAILED,
        overall: BLOCKED,
        reasons,
        exhausts_limits: false,
    }
}

/// Failed, but only after everything that verifyd tries against it.
pub(super) const fn exhausted(reasons: &'static [&'static str]) -> Expectation {
    Expectation {
        exhausts_limits: true,
        ..failed(reasons)
    }
}
