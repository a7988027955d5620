//! The severity of a finding.

use super::names::text_enum;
use serde::{Deserialize, Serialize};

/// How bad it is when a check does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}
text_enum!(Severity, "severity", Info => "info", Low => "low", Medium => "medium", High => "high", Critical => "critical");
