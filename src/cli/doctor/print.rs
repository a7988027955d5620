//! Prints the lines of `doctor` to a terminal.

use super::{Line, State};
use crate::cli::output;
use crate::domain::report::redact::clean;
use owo_colors::OwoColorize as _;
use std::collections::HashSet;

/// Prints each line, and a remedy that several have only with the first of them: one rule may refuse several parts.
pub(super) fn lines(lines: &[Line]) {
    texts(lines).for_each(output::line);
}

fn texts(lines: &[Line]) -> impl Iterator<Item = String> {
    let mut printed = HashSet::new();
    lines.iter().map(move |line| {
        let remedy = line.remedy.as_deref();
        text(line, remedy.filter(|remedy| printed.insert(*remedy)))
    })
}

/// Begins each further line.
const INDENT: &str = "            ";

fn text(line: &Line, remedy: Option<&str>) -> String {
    let mark = match line.state {
        State::Ok => "✓".green().to_string(),
        State::Warning => "!".yellow().to_string(),
        State::Failed => "✗".red().to_string(),
    };
    let mut text = format!("{mark} {:<9} {}", line.part, cleaned(&line.found));
    if let Some(remedy) = remedy {
        text.push_str(&format!("\n{INDENT}{} {}", "→".cyan(), cleaned(remedy)));
    }
    text
}

/// Removes what servers and rows must not bring to a terminal: control characters, and lines that look like another
/// part's.
fn cleaned(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| clean(line, usize::MAX)).collect();
    lines.join(&format!("\n{INDENT}"))
}

#[cfg(test)]
mod tests {
    use super::super::bad;
    use super::*;

    #[test]
    fn no_server_forges_a_line_or_controls_the_terminal() {
        let hostile = "x\n✓ database  forged\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}";
        let text = text(
            &bad("writing", State::Failed, hostile, hostile),
            Some(hostile),
        );
        let mut further = text.lines().skip(1);
        assert!(further.all(|line| line.starts_with(INDENT)), "{text:?}");
        for control in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\u{202e}"] {
            assert!(!text.contains(control), "{text:?}");
        }
    }

    #[test]
    fn a_remedy_of_several_lines_is_printed_once() {
        let lines = ["writing", "runs", "webhooks"].map(|part| {
            let remedy = match part {
                "webhooks" => "repeat them",
                _ => "ALTER POLICY",
            };
            bad(part, State::Failed, "refused", remedy)
        });
        let remedies: Vec<usize> = texts(&lines)
            .map(|text| text.matches('→').count())
            .collect();
        assert_eq!(remedies, [1, 0, 1]);
    }
}
