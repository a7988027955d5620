//! Settings: config/default.toml, then a file, then the environment, then flags.
//!
//! Every key has one rule (`rule`, `keys`), which checks the value and words what is allowed, in
//! messages and in docs/reference/configuration.md. What no operator has a reason to change is a constant of
//! the module that uses it, or follows a key.

mod contradiction;
mod error;
mod former;
mod grants;
mod groups;
mod keys;
mod print;
mod reference;
mod rule;
mod settings;
mod sources;
mod table_list;
mod toml_text;

pub use error::{ConfigError, Problem};
pub use print::masked_url;
pub use reference::tables as reference_tables;
pub use settings::Settings;
pub use sources::{Overrides, Sources};

use crate::queue::redis::ConsumerSettings;
use config::{Config, Value, ValueKind};
use print::Shown;
use rule::Rule;
use secrecy::ExposeSecret;
use std::str::FromStr;

/// config/default.toml, as compiled in.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// Reads an option of the command line that stands for a key. The error says what is allowed.
pub fn read_option<T: FromStr>(key: &str, text: &str) -> Result<T, String> {
    let rule = keys::rule(key).ok_or_else(|| keys::unknown(key))?;
    let value = match rule.check(&rule.read("", text)) {
        Ok(()) => text.trim().parse().ok(),
        Err(_) => None,
    };
    value.ok_or_else(|| format!("allowed: {rule}"))
}

impl Settings {
    /// Loads and checks. The error names everything that is wrong, not only the first.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let layers = sources::layers(DEFAULT, &sources, &mut problems)?;
        let merged = layers
            .into_iter()
            .fold(Config::builder(), |builder, layer| {
                builder.add_source(layer)
            })
            .build()
            .map_err(|error| internal(&error))?;
        let values = in_order(&merged.cache);
        for (key, rule, value) in &values {
            if let Err(found) = rule.check(value) {
                problems.push(Problem::at(
                    value.origin().unwrap_or("default"),
                    format!("{key} must be {rule}, found {found}"),
                ));
            }
        }
        problems.extend(incomplete_clouds(&values));
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let shown = values
            .iter()
            .map(|(key, rule, value)| Shown::new(key, *rule, value))
            .collect();
        let mut settings: Self = merged.try_deserialize().map_err(|error| internal(&error))?;
        settings.shown = shown;
        if settings.database.url.expose_secret().is_empty() {
            settings.database.url = settings::EMBEDDED_DATABASE.into();
        }
        settings.redis.consumer = ConsumerSettings::following(settings.worker.heartbeat_interval);
        let problems = contradiction::find(&settings);
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError { problems })
        }
    }
}

/// The values of all keys in the order of config/default.toml, added clouds last.
fn in_order(root: &Value) -> Vec<(String, Rule, Value)> {
    let mut leaves = Vec::new();
    collect("", root, &mut leaves);
    let place = |key: &str| keys::FIXED.iter().position(|(name, _)| *name == key);
    let last = |key: &str| {
        keys::CLOUD_KEYS
            .iter()
            .position(|name| key.ends_with(&format!(".{name}")))
    };
    leaves.sort_by_cached_key(|(key, ..)| match place(key) {
        Some(place) => (place, String::new(), None),
        None => {
            let table = key
                .rsplit_once('.')
                .map_or(key.as_str(), |(table, _)| table);
            (usize::MAX, table.to_owned(), last(key))
        }
    });
    leaves
}

fn collect(prefix: &str, value: &Value, leaves: &mut Vec<(String, Rule, Value)>) {
    if let Some(rule) = keys::rule(prefix) {
        leaves.push((prefix.to_owned(), rule, value.clone()));
    } else if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            collect(&key, value, leaves);
        }
    }
}

/// Clouds that somebody added with an address missing.
fn incomplete_clouds(values: &[(String, Rule, Value)]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for (key, _, value) in values {
        let Some((cloud, _)) = key
            .strip_prefix(keys::CLOUDS)
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        for last in keys::CLOUD_KEYS {
            let wanted = format!("{}{cloud}.{last}", keys::CLOUDS);
            let problem = Problem::at(
                value.origin().unwrap_or("default"),
                format!("{wanted} is missing; a cloud needs login, graph and portal"),
            );
            if !values.iter().any(|(key, ..)| *key == wanted)
                && !problems.iter().any(|p| p.message == problem.message)
            {
                problems.push(problem);
            }
        }
    }
    problems
}

/// The rules let something through that the structs refuse: a defect of this program. The error's
/// own text may quote a value, so only its key is told.
fn internal(error: &config::ConfigError) -> ConfigError {
    use config::ConfigError as E;
    let key = match error {
        E::Type { key, .. } | E::At { key, .. } => key.as_deref(),
        E::NotFound(key) => Some(key.as_str()),
        _ => None,
    };
    Problem {
        source: None,
        message: format!(
            "the value of {} does not fit; this is a defect of verifyd",
            key.unwrap_or("a key")
        ),
    }
    .into()
}

#[cfg(test)]
mod tests;
