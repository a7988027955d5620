//! The generated part of `crates/simulator/README.md`.

use super::scenario::Scenario;
use std::fmt::Write as _;

/// Returns the list of all scenarios as Markdown, by what a check ends in. A line has the number, the name, the module
/// if it is another than `health_check`, what the tenant is like, and the reasons and AADSTS codes, unless the only
/// reason is the name. Ends with a line break. The tenant id follows from the number.
pub fn scenario_list() -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for &scenario in Scenario::ALL {
        let (name, expected) = (scenario.name(), scenario.expectation());
        let group = format!("{}, {}", expected.outcome, expected.overall);
        let module = match expected.module {
            "health_check" => String::new(),
            other => format!(" (`{other}`)"),
        };
        let limits = if expected.exhausts_limits { " †" } else { "" };
        let mut line = format!(
            "- {} `{name}`{module}{limits}: {}",
            scenario.number(),
            scenario.description(),
        );
        // Writing to a String cannot fail.
        if !expected.reasons.is_empty() && *expected.reasons != [name] {
            let _ = write!(
                line,
                " {}",
                joined(expected.reasons.iter().map(|r| format!("`{r}`")))
            );
        }
        if !scenario.codes().is_empty() {
            let _ = write!(
                line,
                " {}",
                joined(scenario.codes().iter().map(u32::to_string))
            );
        }
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((group, vec![line])),
        }
    }
    let texts: Vec<String> = groups
        .iter()
        .map(|(group, lines)| format!("### {group}\n\n{}\n", lines.join("\n")))
        .collect();
    texts.join("\n")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    parts.join(", ")
}
