//! Reads settings from TOML: the values of known keys, and what is wrong with the others.

use super::error::{ConfigError, Problem};
use super::keys::{self, rule};
use super::rule::Rule;
use super::sources::Layer;
use config::{Value, ValueKind};

/// Reads the values of all known keys; the others are problems.
pub(super) fn parse(
    text: &str,
    origin: &str,
    problems: &mut Vec<Problem>,
) -> Result<Layer, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        if let Some(problem) = of_number(&error, origin) {
            return problem;
        }
        // The error's own text quotes the line, which may hold a secret.
        let (line, column) = error.span().map_or((1, 1), |span| place(text, span.start));
        Problem::at(
            origin,
            format!(
                "is no valid TOML: line {line}, column {column}: {}",
                error.message()
            ),
        )
    })?;
    let mut layer = Layer::default();
    flatten("", table, origin, &mut layer, problems);
    Ok(layer)
}

/// The problem where a value, and not the syntax, cannot be read: a number. The error names the key without the text
/// alone.
fn of_number(error: &toml::de::Error, origin: &str) -> Option<Problem> {
    let mut error = error.clone();
    error.set_input(None);
    let said = error.to_string();
    let path = said.split_once("\nin `")?.1.strip_suffix("`\n")?;
    let mut key = path;
    loop {
        if let Some(rule) = rule(key) {
            let found = "a number that is out of range";
            return Some(wrong_type(key, rule, found, origin));
        }
        match key.rsplit_once('.') {
            // A member of a table in a list.
            Some((list, _)) => key = list,
            None => return Some(without_rule(path, origin)),
        }
    }
}

/// The problem of a value whose key holds none.
fn without_rule(key: &str, origin: &str) -> Problem {
    let problem = match keys::is_section(key) {
        true => format!("{key} must be a table of keys, not a value"),
        false => keys::unknown(key),
    };
    Problem::at(origin, problem)
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

fn flatten(
    prefix: &str,
    table: toml::Table,
    origin: &str,
    layer: &mut Layer,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => match rule(&key) {
                Some(rule) => problems.push(wrong_type(&key, rule, "a table", origin)),
                None => {
                    if inner.is_empty() && !keys::is_section(&key) {
                        problems.push(Problem::at(origin, keys::unknown(&key)));
                    }
                    flatten(&key, inner, origin, layer, problems);
                }
            },
            value => match rule(&key) {
                Some(rule) => match convert(value, origin) {
                    Some(value) => layer.0.push((key, value)),
                    None => problems.push(wrong_type(&key, rule, "a date", origin)),
                },
                None => problems.push(without_rule(&key, origin)),
            },
        }
    }
}

fn wrong_type(key: &str, rule: Rule, found: &str, origin: &str) -> Problem {
    Problem::at(origin, format!("{key} must be {rule}, found {found}"))
}

/// `None` if there is a date in it, which no key allows.
pub(super) fn convert(value: toml::Value, origin: &str) -> Option<Value> {
    let name = origin.to_owned();
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text),
        toml::Value::Integer(number) => ValueKind::I64(number),
        toml::Value::Float(number) => ValueKind::Float(number),
        toml::Value::Boolean(flag) => ValueKind::Boolean(flag),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(items) => ValueKind::Array(
            items
                .into_iter()
                .map(|value| convert(value, origin))
                .collect::<Option<_>>()?,
        ),
        toml::Value::Table(table) => ValueKind::Table(
            table
                .into_iter()
                .map(|(key, value)| Some((key, convert(value, origin)?)))
                .collect::<Option<_>>()?,
        ),
    };
    Some(Value::new(Some(&name), kind))
}
