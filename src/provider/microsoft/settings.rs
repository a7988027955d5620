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
    /// Limit for name resolution, TCP and TLS.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Limit for each silence while an answer is awaited.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// Limit for one request from connecting to the last byte.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Bytes of one answer's body.
    pub max_response_bytes: usize,
    /// Pages of one listing.
    pub max_pages: usize,
    /// Largest number of resources that one application may have roles on; each takes a call.
    pub max_resources: usize,
    /// Largest number of times that one request is sent, including the first one.
    pub max_attempts_per_request: u32,
    /// First wait before a request is sent again; doubles each time.
    #[serde(with = "humantime_serde")]
    pub retry_base_delay: Duration,
    /// Longest wait that is chosen here; the provider may ask for a longer one.
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    /// Wait of the provider beyond which the run is released.
    #[serde(with = "humantime_serde")]
    pub defer_after: Duration,
    /// Time before its expiry in which a token is no longer used (at most half its lifetime).
    #[serde(with = "humantime_serde")]
    pub token_refresh_margin: Duration,
    /// Tokens kept in memory.
    pub token_cache_entries: u64,
    /// Resources whose role names are cached.
    pub role_cache_entries: u64,
    /// Time for which role names are cached.
    #[serde(with = "humantime_serde")]
    pub role_cache_ttl: Duration,
    /// Folder with the files of more modules; empty: there are none.
    pub modules_dir: PathBuf,
    /// The clouds by key, `^[a-z0-9][a-z0-9_]{0,63}$`.
    pub clouds: BTreeMap<String, CloudSettings>,
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
    /// Checks all members and resolves the clouds.
    pub(super) fn validate(&self) -> Result<Clouds, MicrosoftSettingsError> {
        for (field, value) in [
            ("connect_timeout", self.connect_timeout),
            ("read_timeout", self.read_timeout),
            ("request_timeout", self.request_timeout),
            ("retry_base_delay", self.retry_base_delay),
            ("retry_max_delay", self.retry_max_delay),
            ("role_cache_ttl", self.role_cache_ttl),
        ] {
            if value.is_zero() {
                return Err(wrong(field, "must be longer than nothing"));
            }
        }
        if self.retry_max_delay < self.retry_base_delay {
            return Err(wrong("retry_max_delay", "is shorter than retry_base_delay"));
        }
        // More than an hour would only hide a mistake in the unit.
        if self.request_timeout > Duration::from_secs(3600) {
            return Err(wrong("request_timeout", "must be at most 1h"));
        }
        if !(1024..=64 * 1024 * 1024).contains(&self.max_response_bytes) {
            return Err(wrong("max_response_bytes", "must be from 1024 to 67108864"));
        }
        if !(1..=1000).contains(&self.max_pages) {
            return Err(wrong("max_pages", "must be from 1 to 1000"));
        }
        if !(1..=1000).contains(&self.max_resources) {
            return Err(wrong("max_resources", "must be from 1 to 1000"));
        }
        if !(1..=20).contains(&self.max_attempts_per_request) {
            return Err(wrong("max_attempts_per_request", "must be from 1 to 20"));
        }
        for (field, value) in [
            ("token_cache_entries", self.token_cache_entries),
            ("role_cache_entries", self.role_cache_entries),
        ] {
            if value == 0 {
                return Err(wrong(field, "must be at least 1"));
            }
        }
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
pub(super) mod tests {
    use super::*;

    /// The settings that tests start from.
    pub(in super::super) fn settings() -> MicrosoftSettings {
        toml::from_str(
            r#"
            default_cloud = "global"
            connect_timeout = "5s"
            read_timeout = "10s"
            request_timeout = "20s"
            max_response_bytes = 1048576
            max_pages = 20
            max_resources = 50
            max_attempts_per_request = 3
            retry_base_delay = "250ms"
            retry_max_delay = "4s"
            defer_after = "5s"
            token_refresh_margin = "2m"
            token_cache_entries = 100
            role_cache_entries = 100
            role_cache_ttl = "1h"
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
    fn numbers_have_bounds() {
        let bad = |change: fn(&mut MicrosoftSettings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.validate().unwrap_err().field
        };
        assert_eq!(
            bad(|s| s.connect_timeout = Duration::ZERO),
            "connect_timeout"
        );
        assert_eq!(bad(|s| s.max_response_bytes = 0), "max_response_bytes");
        assert_eq!(bad(|s| s.max_pages = 0), "max_pages");
        assert_eq!(bad(|s| s.max_resources = 0), "max_resources");
        assert_eq!(
            bad(|s| s.max_attempts_per_request = 0),
            "max_attempts_per_request"
        );
        assert_eq!(bad(|s| s.token_cache_entries = 0), "token_cache_entries");
        assert_eq!(
            bad(|s| s.retry_max_delay = Duration::from_millis(1)),
            "retry_max_delay"
        );
    }
}
