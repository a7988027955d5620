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
    let is_known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
    server_address::unknown_parameter(&url, is_known, &PARAMETERS.join(", ")).or_else(|| {
        url.query_pairs()
            .find_map(|(name, value)| wrong_value(&name, &value))
    })
}

fn wrong_value(name: &str, value: &str) -> Option<String> {
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
        _ => None,
    }
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
            (
                "application_name=me@work&&sslmod=require",
                "the parameter \"sslmod\" is not known",
            ),
            ("S3cret!=x", "percent-encode ? as %3F"),
        ] {
            let problem = problem(&format!("postgres://u:p@h/db?{query}")).unwrap_or_default();
            assert!(problem.contains(words), "{query}: {problem}");
            assert!(!problem.contains("S3cret"), "{problem}");
        }
        for (address, words) in [
            ("postgres://h/db?password=a&secretpart=1", "& as %26"),
            ("postgres://h/db?password=a&port=x&secretpart", "& as %26"),
            (
                "postgres://u:12?secretpart=word@h/db",
                "percent-encode ? as %3F",
            ),
            (
                "postgres://u:p@ss?secretpart=word@h/db",
                "percent-encode ? as %3F",
            ),
            (
                "postgres://u:p@ss?port=1&secretpart&host=x@h/db",
                "percent-encode ? as %3F",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            assert!(!problem.contains("secretpart"), "{problem}");
        }
        for query in [
            "password=a&port=5433",
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
