//! The generated part of `docs/contributing/simulator.md`.

use super::scenario::Scenario;
use std::fmt::Write as _;

/// Returns the table of all scenarios as Markdown: number, name, what the tenant is like, module, and what a
/// check of it ends in. Ends with a line break. The tenant id follows from the number.
pub fn scenario_table() -> String {
    let mut table = String::from(
        "| number | name | what is the matter | module | outcome, overall | reasons | AADSTS codes, by instance |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for &scenario in Scenario::ALL {
        let expected = scenario.expectation();
        let reasons = joined(expected.reasons.iter().map(|r| format!("`{r}`")));
        let codes = joined(scenario.codes().iter().map(u32::to_string));
        let limits = if expected.exhausts_limits {
            " (†)"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| {} | `{}` | {} | `{}` | {}{limits}, {} | {} | {} |",
            scenario.number(),
            scenario.name(),
            scenario.description(),
            expected.module,
            expected.outcome,
            expected.overall,
            reasons,
            codes,
        );
    }
    table
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    parts.join(", ")
}
