//! Prints results to standard output, and errors to standard error.

use chrono::{DateTime, Utc};
use comfy_table::{LineStyle, TableStyle};
use serde::Serialize;

/// A line of a result. Colours are dropped where they cannot be shown.
pub fn line(text: impl std::fmt::Display) {
    anstream::println!("{text}");
}

/// A result as indented JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// An error with its causes.
pub fn error(error: &anyhow::Error) {
    use owo_colors::OwoColorize as _;
    anstream::eprintln!("{} {error:#}", "error:".red().bold());
}

/// A remark that is no result.
pub fn note(text: impl std::fmt::Display) {
    anstream::eprintln!("{text}");
}

/// A table with a header.
pub fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::new('─', '─', '─', '─')))
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// A cell of a table, which may have no value.
pub fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// An id; 0 stands for one that is not there.
pub fn id_or_dash(id: i64) -> String {
    or_dash((id != 0).then_some(id))
}

/// A time to the day.
pub fn day(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d").to_string()
}

/// A time to the minute, in UTC as it says.
pub fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// A time to the second, in UTC.
pub fn second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns how long ago a time was, or how far ahead it is.
pub fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    if (then - now).num_seconds() > 0 {
        return format!("in {}", age(then, now));
    }
    format!("{} ago", age(now, then))
}

/// Returns the elapsed time, in whole seconds or larger units.
pub fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds().max(0).unsigned_abs();
    let rounded = match seconds {
        0..=119 => seconds,
        120..=7199 => seconds / 60 * 60,
        7200..=172_799 => seconds / 3600 * 3600,
        _ => seconds / 86_400 * 86_400,
    };
    humantime::format_duration(std::time::Duration::from_secs(rounded)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_time_ahead_is_told_from_one_that_has_passed() {
        let now = DateTime::UNIX_EPOCH;
        for (milliseconds, text) in [
            (-7_300_000, "2h ago"),
            (-5_000, "5s ago"),
            (999, "0s ago"),
            (5_000, "in 5s"),
            (32_400_000, "in 9h"),
        ] {
            let then = now + TimeDelta::milliseconds(milliseconds);
            assert_eq!(ago(now, then), text);
        }
    }
}
