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
