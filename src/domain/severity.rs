//! The severity of a finding.

use super::names::text_enum;

text_enum! {
    /// How bad it is when a check does not pass.
    pub enum Severity: "severity" {
        Info => "info",
        Low => "low",
        Medium => "medium",
        High => "high",
        Critical => "critical",
    }
}
