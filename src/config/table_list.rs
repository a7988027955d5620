//! Keys whose value is a list of tables, as text of a variable and in TOML.

use super::print::quoted;
use super::toml_text::convert;
use config::{Value, ValueKind};
use std::fmt::Write as _;

/// Reads the text of an environment variable: the list in TOML. Anything else stays text, which no rule allows.
pub(super) fn read(origin: &str, text: &str) -> ValueKind {
    if text.trim().is_empty() {
        return ValueKind::Array(Vec::new());
    }
    let table: Result<toml::Table, _> = format!("list = {}", text.trim()).parse();
    let table = table.ok().filter(|table| table.len() == 1);
    let list = table.and_then(|mut table| table.remove("list"));
    let list = list.and_then(|list| convert(list, origin));
    list.map_or_else(|| ValueKind::String(text.to_owned()), |list| list.kind)
}

/// A value in TOML; the members of its tables in this order.
pub(super) fn text(value: &Value, members: &[&str]) -> String {
    let mut out = String::new();
    write(value, members, &mut out);
    out
}

fn write(value: &Value, members: &[&str], out: &mut String) {
    match &value.kind {
        ValueKind::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write(item, members, out);
            }
            out.push(']');
        }
        ValueKind::Table(table) => {
            let known = members
                .iter()
                .filter_map(|name| Some((name, table.get(*name)?)));
            out.push_str("{ ");
            for (index, (name, member)) in known.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                let _ = write!(out, "{name} = ");
                write(member, members, out);
            }
            out.push_str(" }");
        }
        ValueKind::String(text) => out.push_str(&quoted(text)),
        ValueKind::I64(number) => {
            let _ = write!(out, "{number}");
        }
        // The rules allow nothing else.
        _ => out.push_str("\"\""),
    }
}
