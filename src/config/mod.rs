//! Settings: config/default.toml, then a file, then the environment, then flags.
//!
//! Every key has one rule (`rule`, `keys`), which checks the value and words what is allowed, in
//! messages and in docs/reference/configuration.md. What no operator has a reason to change is a constant of
//! the module that uses it, or follows a key.

mod contradiction;
mod error;
mod former;
mod keys;
mod print;
mod reference;
mod rule;
mod settings;
mod sources;

pub use error::{ConfigError, Problem};
pub use print::masked_url;
pub use reference::tables as reference_tables;
pub use settings::Settings;
pub use sources::{Overrides, Sources};

use crate::queue::redis::ConsumerSettings;
use print::Shown;
use rule::Rule;
use secrecy::ExposeSecret;
use sources::{Layer, Setting};

/// config/default.toml, as compiled in.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

impl Settings {
    /// Loads and checks. The error names everything that is wrong, not only the first.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let values = in_order(sources::merged(DEFAULT, &sources, &mut problems)?);
        for (key, rule, setting) in &values {
            if let Err(found) = rule.check(&setting.value) {
                let message = format!("{key} must be {rule}, found {found}");
                problems.push(Problem::at(&setting.origin, message));
            }
        }
        problems.extend(incomplete_clouds(&values));
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let shown = values
            .iter()
            .map(|(key, rule, setting)| Shown::new(key, *rule, setting))
            .collect();
        let mut tree = toml::Table::new();
        for (key, _, setting) in values {
            insert(&mut tree, &key, setting.value);
        }
        // The error's own text may quote a value.
        let mut settings: Self = tree.try_into().map_err(|_| Problem {
            source: None,
            message: "the values do not fit; this is a defect of verifyd".to_owned(),
        })?;
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
fn in_order(merged: Layer) -> Vec<(String, Rule, Setting)> {
    let mut leaves: Vec<(String, Rule, Setting)> = merged
        .into_iter()
        .filter_map(|(key, setting)| Some((keys::rule(&key)?, key, setting)))
        .map(|(rule, key, setting)| (key, rule, setting))
        .collect();
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

/// Puts a value where its dotted key says.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(section).or_insert(toml::Table::new().into());
    if let Some(inner) = inner.as_table_mut() {
        insert(inner, rest, value);
    }
}

/// Clouds that somebody added with an address missing.
fn incomplete_clouds(values: &[(String, Rule, Setting)]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for (key, _, setting) in values {
        let Some((cloud, _)) = key
            .strip_prefix(keys::CLOUDS)
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        for last in keys::CLOUD_KEYS {
            let wanted = format!("{}{cloud}.{last}", keys::CLOUDS);
            let problem = Problem::at(
                &setting.origin,
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

#[cfg(test)]
mod tests;
