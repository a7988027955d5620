//! Prints a line of `doctor` to a terminal.

use super::{Line, State};
use crate::cli::output;
use crate::domain::report::redact::clean;
use owo_colors::OwoColorize as _;

pub(super) fn line(line: &Line) {
    output::line(text(line));
}

/// Begins each further line.
const INDENT: &str = "            ";

fn text(line: &Line) -> String {
    let mark = match line.state {
        State::Ok => "✓".green().to_string(),
        State::Warning => "!".yellow().to_string(),
        State::Failed => "✗".red().to_string(),
    };
    let mut text = format!("{mark} {:<9} {}", line.part, cleaned(&line.found));
    if let Some(remedy) = &line.remedy {
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
        let text = text(&bad("writing", State::Failed, hostile, hostile));
        let mut further = text.lines().skip(1);
        assert!(further.all(|line| line.starts_with(INDENT)), "{text:?}");
        for control in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\u{202e}"] {
            assert!(!text.contains(control), "{text:?}");
        }
    }
}
