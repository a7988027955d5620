//! Formats times and links, and reads ids of the address, for pages.

use super::error::PageError;
use crate::domain::report::NextStep;
use crate::domain::{ALLOWED_ID, InvalidId};
use crate::view::words;
use chrono::{DateTime, Utc};
use std::str::FromStr;

/// A time, relative and absolute.
#[derive(Clone, Debug)]
pub struct Moment {
    /// RFC 3339, for machines.
    pub iso: String,
    /// The absolute time.
    pub full: String,
    /// `12 min ago`
    pub ago: String,
}

impl Moment {
    pub fn of(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            iso: at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            full: at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            ago: words::ago(at, now),
        }
    }

    pub fn maybe(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<Self> {
        at.map(|at| Self::of(at, now))
    }
}

/// Reads an id of the address; empty is none.
pub fn parse<T: FromStr<Err = InvalidId>>(text: &str, what: &str) -> Result<Option<T>, PageError> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            PageError::Refused(format!("{what} is {ALLOWED_ID}; the address has another."))
        }),
    }
}

/// The address, if it may become a link: `https://…`, or a path on this host.
pub fn safe_link(url: &str) -> Option<&str> {
    let plain = !url
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || c == '\\');
    let https = url
        .get(..8)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
        && url.len() > 8;
    let path = url.starts_with('/') && !url.starts_with("//");
    (plain && (https || path)).then_some(url)
}

/// Where a step leads.
pub trait Link {
    /// None: it may not become a link, and is shown as text.
    fn href(&self) -> Option<&str>;

    /// It leaves this host.
    fn is_external(&self) -> bool {
        self.href().is_some_and(|href| !href.starts_with('/'))
    }
}

impl Link for NextStep {
    fn href(&self) -> Option<&str> {
        safe_link(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_paths_become_links() {
        for good in [
            "https://example.com/x?y#z",
            "/runs/1",
            "HTTPS://example.com",
        ] {
            assert_eq!(safe_link(good), Some(good));
        }
        for bad in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            " https://example.com",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "http://example.com",
            "//example.com",
            "/\\example.com",
            "\\\\example.com",
            "https://",
            "",
            "runs/1",
            "https://example.com/\u{0}",
            "/a\tb",
        ] {
            assert_eq!(safe_link(bad), None, "{bad:?}");
        }
    }
}
