//! Explains what is wrong with the address of a Redis server.

use crate::domain::server_address;
use url::{Host, Url};

/// Returns what is wrong with `redis://…` or `rediss://…`; `None` if the client can parse it. Never quotes
/// user or password.
pub fn problem(text: &str) -> Option<String> {
    if let Some(problem) = server_address::problem(text) {
        return Some(problem);
    }
    // Just read.
    let url = Url::parse(text).ok()?;
    let says = |problem: &str| Some(problem.to_owned());
    if !url.username().is_empty() && url.password().is_none() {
        return says(
            "it has a user and no password; a password alone follows a colon, as in redis://:PASSWORD@HOST",
        );
    }
    let everywhere = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_unspecified(),
        Some(Host::Domain(name)) => name == "0.0.0.0",
        None => false,
    };
    if everywhere {
        return says("0.0.0.0 and [::] are addresses to listen on, not to connect to");
    }
    let database = url.path().trim_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return says("the path is not the number of a database, such as /0");
    }
    let allowed = "protocol (the database's number is the path, TLS the scheme rediss)";
    server_address::unknown_parameter(&url, |name| name == "protocol", allowed).or_else(|| {
        let protocols = ["2", "3", "resp2", "resp3"];
        let mut values = url.query_pairs().map(|(_, value)| value);
        if values.all(|value| protocols.contains(&&*value)) {
            return None;
        }
        says("the parameter protocol has another value, allowed: 2, 3, resp2, resp3")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Client;

    #[test]
    fn what_is_wrong_is_named_and_what_is_not_the_client_takes() {
        for (address, words) in [
            ("redis://:ab#cd@h", "percent-encode # as %23"),
            ("redis://:ab/cd@h:6379/0", "percent-encode / as %2F"),
            ("redis://S3cret@h", "redis://:PASSWORD@HOST"),
            ("redis://h/db0", "the number of a database"),
            ("redis://h/-1", "the number of a database"),
            ("redis://h/0/1", "the number of a database"),
            ("redis://0.0.0.0", "to listen on"),
            ("redis://[::]:6379", "to listen on"),
            (
                "redis://h?db=2",
                "the parameter \"db\" is not known, allowed: protocol",
            ),
            ("redis://h?ssl=true", "TLS the scheme rediss"),
            ("redis://h?protocol=4", "allowed: 2, 3, resp2, resp3"),
            ("redis://h?S3cret!", "percent-encode ? as %3F"),
            (
                "redis://u:12?secretpart=S3cret@h",
                "percent-encode ? as %3F",
            ),
            (
                "redis://us#er:S3cret@h",
                "percent-encode # as %23 in the user",
            ),
            ("redis://::1:6379", "an IPv6 address must be in brackets"),
            ("redis://", "the host is missing"),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            for secret in ["S3cret", "secretpart"] {
                assert!(!problem.contains(secret), "{problem}");
            }
        }
        for address in [
            "redis://h",
            "redis://h?protocol=2",
            "redis://[::1]:6379/2",
            "rediss://user:p%23w@h:6380/1?protocol=resp3",
            "redis://:p@10.0.0.1",
        ] {
            assert_eq!(problem(address), None, "{address}");
            Client::open(address).unwrap();
        }
    }
}
