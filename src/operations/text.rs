//! Texts of people: their length and characters.

use super::OperationError;
use crate::domain::overview::NAME_CHARS;
use crate::domain::report::redact;

/// Returns the text without white space around it. Refuses one that is empty or longer than `chars`, and control
/// characters; with `lines` tabs and line breaks are none.
pub(super) fn text(
    field: &'static str,
    value: &str,
    chars: usize,
    lines: bool,
) -> Result<String, OperationError> {
    let value = value.trim();
    let length = value.chars().count();
    if length == 0 || length > chars {
        let problem = format!("has {length} characters");
        let allowed = format!("1 to {chars}");
        return Err(OperationError::not_allowed(field, problem, allowed));
    }
    let allowed = |c: char| !c.is_control() || lines && (c == '\n' || c == '\t' || c == '\r');
    if !value.chars().all(allowed) {
        let allowed = if lines {
            "text, tabs and line breaks"
        } else {
            "one line of text"
        };
        let problem = "has a control character";
        return Err(OperationError::not_allowed(field, problem, allowed));
    }
    Ok(value.to_owned())
}

/// Returns a name that lists show: one line of `text`, with U+FFFD for characters that are invisible or change the
/// direction.
pub(super) fn name(field: &'static str, value: &str) -> Result<String, OperationError> {
    let value = text(field, value, NAME_CHARS, false)?;
    Ok(redact::clean(&value, NAME_CHARS))
}
