//! The section `[microsoft]`.

use super::cloud::{self, Cloud, Clouds};
use crate::domain::connection::is_cloud_key;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

/// The section `[microsoft]`. Every field is required here; the defaults are in config/default.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicrosoftSettings {
    /// The cloud of a connection that names none.
    pub default_cloud: String,
    /// Limit for one request from connecting to the last byte.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Largest number of times that one request is sent, including the first one. No key sets it.
    #[serde(skip, default = "max_attempts_per_request")]
    pub max_attempts_per_request: u32,
    /// No key sets them.
    #[serde(skip)]
    pub pauses: Pauses,
    /// Folder with the files of more modules; empty: there are none.
    pub modules_dir: PathBuf,
    /// The clouds by key, `^[a-z0-9][a-z0-9_]{0,63}$`.
    pub clouds: BTreeMap<String, CloudSettings>,
}

/// Three retries, within some two seconds, outlast a lost connection and a short spell of throttling. More would hold the
/// slot of a run during an outage.
const fn max_attempts_per_request() -> u32 {
    4
}

/// The waits between two attempts of one request. Tests choose shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// The first wait; it doubles each time.
    pub first: Duration,
    /// The longest wait that is chosen here. A credential or a consent that may not have reached all of the provider
    /// yet is waited for in pauses that double from a fifth of it on.
    pub longest: Duration,
    /// When the provider asks to wait longer than this, the run goes back to the queue: a slot is worth more.
    pub defer_after: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(5),
            defer_after: Duration::from_secs(5),
        }
    }
}

/// Base addresses of one cloud: scheme, host and port, nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudSettings {
    /// Microsoft Entra's login. Plain http only on loopback.
    pub login: String,
    /// Microsoft Graph. Plain http only on loopback.
    pub graph: String,
    /// The portal that links lead to; never called. Always https, because a report contains no other links.
    pub portal: String,
}

/// Why the section `[microsoft]` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("microsoft.{field}: {problem}")]
pub struct MicrosoftSettingsError {
    /// Path of the member within the section.
    pub field: String,
    /// What is allowed.
    pub problem: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> MicrosoftSettingsError {
    MicrosoftSettingsError {
        field: field.into(),
        problem: problem.into(),
    }
}

impl MicrosoftSettings {
    /// Returns the limit for name resolution, TCP and TLS.
    pub fn connect_timeout(&self) -> Duration {
        self.request_timeout / 4
    }

    /// Returns the limit for each silence while an answer is awaited.
    pub fn read_timeout(&self) -> Duration {
        self.request_timeout / 2
    }

    /// Returns the longest wait that an attempt makes for the provider. A run's deadline is longer than one request,
    /// so it leaves time for the check.
    pub(super) fn defer_after(&self) -> Duration {
        self.pauses.defer_after.min(self.request_timeout)
    }

    /// Checks and resolves the clouds.
    pub(super) fn validate(&self) -> Result<Clouds, MicrosoftSettingsError> {
        let clouds: BTreeMap<String, Cloud> = self
            .clouds
            .iter()
            .map(|(key, settings)| {
                if !is_cloud_key(key) {
                    return Err(wrong(
                        format!("clouds.{key}"),
                        "the key must match ^[a-z0-9][a-z0-9_]{0,63}$",
                    ));
                }
                let at = |member: &str| format!("clouds.{key}.{member}");
                let graph = base_address(&at("graph"), &settings.graph, true)?;
                Ok((
                    key.clone(),
                    Cloud {
                        key: key.clone(),
                        login: base_address(&at("login"), &settings.login, true)?,
                        graph_origin: cloud::origin(&graph)
                            .ok_or_else(|| wrong(at("graph"), "is not an address"))?,
                        graph,
                        portal: base_address(&at("portal"), &settings.portal, false)?,
                    },
                ))
            })
            .collect::<Result<_, MicrosoftSettingsError>>()?;
        if !clouds.contains_key(&self.default_cloud) {
            let known: Vec<&str> = clouds.keys().map(String::as_str).collect();
            return Err(wrong(
                "default_cloud",
                format!(
                    "{:?} is none of microsoft.clouds ({})",
                    self.default_cloud,
                    known.join(", ")
                ),
            ));
        }
        Ok(Clouds::new(self.default_cloud.clone(), clouds))
    }
}

fn base_address(
    field: &str,
    text: &str,
    http_on_loopback: bool,
) -> Result<Url, MicrosoftSettingsError> {
    let url = Url::parse(text).map_err(|e| wrong(field, format!("is not an address: {e}")))?;
    if url.host().is_none() {
        return Err(wrong(field, "has no host"));
    }
    match url.scheme() {
        "https" => {}
        "http" if http_on_loopback && is_loopback(&url) => {}
        "http" if http_on_loopback => {
            return Err(wrong(
                field,
                "must be https; plain http is only for loopback (127.0.0.0/8, ::1, localhost)",
            ));
        }
        _ => return Err(wrong(field, "must be https")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(field, "must hold no user name or password"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            field,
            "must be scheme, host and port only, without path, query or fragment",
        ));
    }
    Ok(url)
}

/// Whether the address names loopback itself: `127.0.0.0/8`, `::1` or `localhost`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback() && ip != Ipv4Addr::UNSPECIFIED,
        Some(Host::Ipv6(ip)) => ip == Ipv6Addr::LOCALHOST,
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that tests start from.
    fn settings() -> MicrosoftSettings {
        toml::from_str(
            r#"
            default_cloud = "global"
            request_timeout = "20s"
            modules_dir = ""
            [clouds.global]
            login = "https://login.microsoftonline.com"
            graph = "https://graph.microsoft.com"
            portal = "https://entra.microsoft.com"
            "#,
        )
        .unwrap()
    }

    fn with_cloud(key: &str, login: &str, graph: &str, portal: &str) -> MicrosoftSettings {
        let mut settings = settings();
        settings.clouds.insert(
            key.into(),
            CloudSettings {
                login: login.into(),
                graph: graph.into(),
                portal: portal.into(),
            },
        );
        settings
    }

    const OK: &str = "https://example.com";

    #[test]
    fn plain_http_is_for_loopback_only() {
        for host in [
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://localhost:3",
        ] {
            with_cloud("sim", host, host, OK).validate().unwrap();
        }
        for host in [
            "http://login.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://0.0.0.0",
            "http://[::ffff:127.0.0.1]",
        ] {
            let error = with_cloud("sim", host, OK, OK).validate().unwrap_err();
            assert_eq!(error.field, "clouds.sim.login", "{host}");
        }
    }

    #[test]
    fn addresses_hold_no_more_than_scheme_host_and_port() {
        for address in [
            "https://u:p@example.com",
            "https://example.com/v1.0",
            "https://example.com/?a=b",
            "https://example.com/#x",
            "ftp://example.com",
            "example.com",
            "https://",
        ] {
            let error = with_cloud("sim", OK, address, OK).validate().unwrap_err();
            assert_eq!(error.field, "clouds.sim.graph", "{address}");
        }
    }

    #[test]
    fn the_portal_is_for_links_and_so_always_https() {
        let error = with_cloud("sim", OK, OK, "http://127.0.0.1:1")
            .validate()
            .unwrap_err();
        assert_eq!(error.field, "clouds.sim.portal");
    }

    #[test]
    fn cloud_keys_and_the_default_are_checked() {
        for key in ["", "Global", "_x", "a-b", "ä"] {
            let error = with_cloud(key, OK, OK, OK).validate().unwrap_err();
            assert_eq!(error.field, format!("clouds.{key}"));
        }
        let mut unknown = settings();
        unknown.default_cloud = "mars".into();
        let error = unknown.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "microsoft.default_cloud: \"mars\" is none of microsoft.clouds (global)"
        );
    }

    #[test]
    fn times_follow_the_limit_of_a_request() {
        let mut settings = settings();
        assert_eq!(settings.connect_timeout(), Duration::from_secs(5));
        assert_eq!(settings.read_timeout(), Duration::from_secs(10));
        assert_eq!(settings.defer_after(), Duration::from_secs(5));
        settings.request_timeout = Duration::from_secs(2);
        assert_eq!(settings.defer_after(), Duration::from_secs(2));
    }
}
