//! Settings as text, with secrets masked.

use super::rule::Rule;
use super::settings::Settings;
use super::{grants, groups, table_list};
use crate::domain::host_list::HostList;
use crate::store::LISTEN_OFF;
use config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use std::fmt::Write;

const MASK: &str = "***";

/// One key as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) key: String,
    /// TOML; secrets are masked.
    pub(super) text: String,
    pub(super) origin: String,
}

impl Shown {
    pub(super) fn new(key: &str, rule: Rule, value: &Value) -> Self {
        Self {
            key: key.to_owned(),
            text: shown(rule, value),
            origin: value.origin().unwrap_or("default").to_owned(),
        }
    }
}

impl Settings {
    /// All settings as TOML. Secrets are masked, of addresses only the password. A comment on each
    /// line names where the value comes from.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for Shown { key, text, origin } in &self.shown {
            let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
            if table != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{table}]");
                section = table;
            }
            let origin = origin.replace(char::is_control, " ");
            let _ = writeln!(out, "{name} = {text} # {origin}");
        }
        out
    }

    /// The same for programs: by key, the masked value and where it comes from.
    pub fn masked(&self) -> serde_json::Value {
        self.shown
            .iter()
            .map(|Shown { key, text, origin }| {
                let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
                    .ok()
                    .and_then(|table| serde_json::to_value(&table["value"]).ok());
                let entry = serde_json::json!({ "value": value, "origin": origin });
                (key.clone(), entry)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// Where the settings come from, in one line.
    pub fn summary(&self) -> String {
        let (mut variables, mut others) = (0, Vec::new());
        for Shown { origin, .. } in self.shown.iter().filter(|s| s.origin != "default") {
            if origin.starts_with("environment variable") {
                variables += 1;
            } else if !others.contains(&origin.as_str()) {
                others.push(origin.as_str());
            }
        }
        let mut said = vec!["the built-in defaults".to_owned()];
        said.extend(others.into_iter().map(ToOwned::to_owned));
        match variables {
            0 => {}
            1 => said.push("1 environment variable".to_owned()),
            n => said.push(format!("{n} environment variables")),
        }
        said.join(", ")
    }
}

fn shown(rule: Rule, value: &Value) -> String {
    match (&value.kind, rule) {
        (ValueKind::String(text), Rule::ListenUrl) if text == LISTEN_OFF => quoted(text),
        (
            ValueKind::String(url),
            Rule::DatabaseUrl | Rule::PostgresUrl | Rule::ListenUrl | Rule::RedisUrl,
        ) => quoted(&mask(url)),
        (ValueKind::String(url), Rule::ProxyUrl) => quoted(&crate::outbound::proxy::masked(url)),
        (ValueKind::String(text), Rule::Headers) if text.is_empty() => quoted(text),
        (ValueKind::Array(items), _) if rule.is_secret() => {
            let masks = vec![quoted(MASK); items.len()];
            format!("[{}]", masks.join(", "))
        }
        (ValueKind::Array(_), Rule::Grants) => table_list::text(value, &grants::MEMBERS),
        (ValueKind::Array(_), Rule::Groups) => table_list::text(value, &groups::MEMBERS),
        _ if rule.is_secret() => quoted(MASK),
        (ValueKind::String(text), _) => quoted(text),
        (ValueKind::I64(number), _) => number.to_string(),
        (ValueKind::Float(number), _) => number.to_string(),
        // Rules allow nothing else.
        _ => quoted(MASK),
    }
}

/// An address without its password, to be shown to people.
pub fn masked_url(url: &SecretString) -> String {
    mask(url.expose_secret())
}

fn mask(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let hosts = HostList::of(text);
    let Some(mut url) = hosts.first() else {
        return MASK.to_owned();
    };
    // Without a user, what stands between the commas may be a password that was meant to end with an @.
    if hosts.is_several() && url.username().is_empty() {
        return format!("{}://{MASK}", url.scheme());
    }
    // A password with an unescaped '/', '?' or '#' ends up behind the host: show nothing then.
    let behind = format!(
        "{}{}{}",
        url.path(),
        url.query().unwrap_or(""),
        url.fragment().unwrap_or("")
    );
    if url.scheme() != "sqlite" && (behind.contains('@') || url.fragment().is_some()) {
        return format!("{}://{MASK}", url.scheme());
    }
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return MASK.to_owned();
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let lower = name.to_lowercase();
                let secret = ["pass", "secret", "token", "key"]
                    .iter()
                    .any(|word| lower.contains(word));
                let value = if secret { MASK.into() } else { value };
                (name.into_owned(), value.into_owned())
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    hosts.with_all(url)
}

/// A basic string of TOML: JSON's escapes, and DEL, which JSON leaves as it is.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_only_the_password_is_masked() {
        for (url, masked) in [
            ("", ""),
            (
                "postgres://u:canary@h:5432/db",
                "postgres://u:***@h:5432/db",
            ),
            (
                "postgres://u@h/db?password=canary&sslmode=require",
                "postgres://u@h/db?password=***&sslmode=require",
            ),
            (
                "postgres://u:canary@h1:1,h2:2/db",
                "postgres://u:***@h1:1,h2:2/db",
            ),
            ("postgres://u:12,canary", "postgres://***"),
            ("redis://:canary@h/0", "redis://:***@h/0"),
            (
                "redis+unix:///run/redis.sock?pass=canary",
                "redis+unix:///run/redis.sock?pass=***",
            ),
            ("sqlite://verifyd.db", "sqlite://verifyd.db"),
            ("sqlite:///var/lib/a@b.db", "sqlite:///var/lib/a@b.db"),
            ("postgres://u:12/canary@h/db", "postgres://***"),
            ("postgres://u:1#canary@h/db", "postgres://***"),
            ("postgres://u:1?canary@h/db", "postgres://***"),
            ("postgres://u:x/canary@h/db", "***"),
            ("canary", "***"),
        ] {
            assert_eq!(mask(url), masked, "{url}");
        }
    }
}
