//! Explains what is wrong with the address of a PostgreSQL server.

use crate::domain::server_address;
use std::net::IpAddr;
use url::Url;

const SSL_MODES: &[&str] = &[
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// The allowed parameters after `?` in the URL. The driver would ignore, and log, any other.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Returns what is wrong with `postgres://…`; `None` if the driver can parse it. Never quotes user or
/// password.
pub fn problem(text: &str) -> Option<String> {
    if let Some(problem) = server_address::problem(text) {
        return Some(problem);
    }
    // Just read.
    let url = Url::parse(text).ok()?;
    url.query_pairs()
        .find_map(|(name, value)| parameter(&name, &value))
}

fn parameter(name: &str, value: &str) -> Option<String> {
    let wrong = |allowed: &str| {
        Some(format!(
            "the parameter {name} has another value, allowed: {allowed}"
        ))
    };
    match name {
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&&*value.to_ascii_lowercase()) => {
            wrong(&SSL_MODES.join(", "))
        }
        "port" if value.parse::<u16>().is_err() => wrong("a number from 1 to 65535"),
        "hostaddr" if value.parse::<IpAddr>().is_err() => wrong("an IP address"),
        "statement-cache-capacity" if value.parse::<usize>().is_err() => wrong("a whole number"),
        "host" if value.is_empty() => wrong("a host, or the path of a socket's folder"),
        known if PARAMETERS.contains(&known) || known.starts_with("options[") => None,
        unknown if is_name(unknown) => Some(format!(
            "the parameter {unknown:?} is not known, allowed: {}",
            PARAMETERS.join(", ")
        )),
        // It may be a part of a password with a question mark in it.
        _ => Some(format!(
            "there is no known parameter after the ?; percent-encode ? as %3F in the password, allowed as \
             parameters: {}",
            PARAMETERS.join(", ")
        )),
    }
}

/// Whether it can only be meant as a parameter.
fn is_name(text: &str) -> bool {
    (2..=40).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_documented() {
        let page = include_str!("../../docs/reference/configuration.md");
        for parameter in PARAMETERS {
            assert!(page.contains(&format!("`{parameter}`")), "{parameter}");
        }
    }

    #[test]
    fn the_parameter_that_is_wrong_is_named_with_what_is_allowed() {
        for (query, words) in [
            (
                "sslmode=no-verify",
                "the parameter sslmode has another value, allowed: disable, allow, prefer, require, verify-ca, verify-full",
            ),
            ("sslmode=", "the parameter sslmode"),
            ("application_name=x&ssl-mode=on", "the parameter ssl-mode"),
            (
                "port=x",
                "the parameter port has another value, allowed: a number",
            ),
            ("port=70000", "the parameter port"),
            (
                "hostaddr=h",
                "the parameter hostaddr has another value, allowed: an IP address",
            ),
            (
                "statement-cache-capacity=-1",
                "the parameter statement-cache-capacity",
            ),
            ("host=", "the parameter host"),
            (
                "connect_timeout=5",
                "the parameter \"connect_timeout\" is not known, allowed: sslmode",
            ),
            (
                "channel_binding=require",
                "the parameter \"channel_binding\" is not known",
            ),
            ("S3cret!=x", "percent-encode ? as %3F"),
        ] {
            let problem = problem(&format!("postgres://u:p@h/db?{query}")).unwrap_or_default();
            assert!(problem.contains(words), "{query}: {problem}");
            assert!(!problem.contains("S3cret"), "{problem}");
        }
        for query in [
            "sslmode=require",
            "ssl-ca=/ca.pem&ssl-cert=/c.pem&ssl-key=/k.pem",
            "sslmode=VERIFY-FULL&sslrootcert=/ca.pem",
            "host=/var/run/postgresql",
            "host=::1&port=5433",
            "hostaddr=::1",
            "options[search_path]=app",
            "statement-cache-capacity=0",
        ] {
            assert_eq!(
                problem(&format!("postgres://u:p@h/db?{query}")),
                None,
                "{query}"
            );
        }
    }
}
