//! Formats times, spans and links for pages.

use chrono::{DateTime, Utc};
use std::fmt;

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
        let ahead = at > now;
        let seconds = (if ahead { at - now } else { now - at }).num_seconds();
        let ago = match (seconds, ahead) {
            (0..=1, _) => "just now".to_owned(),
            (_, true) => format!("in {}", span(seconds * 1_000)),
            (_, false) => format!("{} ago", span(seconds * 1_000)),
        };
        Self {
            iso: at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            full: at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            ago,
        }
    }

    pub fn maybe(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<Self> {
        at.map(|at| Self::of(at, now))
    }
}

/// A span in one unit: `340 ms`, `12 s`, `3 min`, `2 h`, `5 days`.
pub fn span(milliseconds: i64) -> String {
    const SECOND: i64 = 1_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let ms = milliseconds.max(0);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => {
            let tenths = ms / 100;
            match tenths % 10 {
                0 => format!("{} s", tenths / 10),
                rest => format!("{}.{rest} s", tenths / 10),
            }
        }
        _ if ms < 2 * MINUTE => format!("{} s", ms / SECOND),
        _ if ms < 2 * HOUR => format!("{} min", ms / MINUTE),
        _ if ms < 2 * DAY => format!("{} h", ms / HOUR),
        _ => format!("{} days", ms / DAY),
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

/// A step that a person can take.
#[derive(Clone, Debug)]
pub struct Step {
    pub label: String,
    /// None: it may not become a link, and is shown as text.
    pub href: Option<String>,
    pub url: String,
    /// It leaves this host.
    pub external: bool,
}

impl Step {
    pub fn of(step: &crate::domain::report::NextStep) -> Self {
        let href = safe_link(&step.url).map(ToOwned::to_owned);
        Self {
            label: step.label.clone(),
            external: href.as_deref().is_some_and(|h| !h.starts_with('/')),
            href,
            url: step.url.clone(),
        }
    }

    pub fn all(steps: &[crate::domain::report::NextStep]) -> Vec<Self> {
        steps.iter().map(Self::of).collect()
    }
}

/// A query string of those parameters that are set.
#[derive(Clone, Debug, Default)]
pub struct QueryText(Vec<(&'static str, String)>);

impl QueryText {
    pub fn with(mut self, key: &'static str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.0.push((key, value.to_string()));
        }
        self
    }
}

impl fmt::Display for QueryText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in &self.0 {
            query.append_pair(key, value);
        }
        let text = query.finish();
        if text.is_empty() {
            Ok(())
        } else {
            write!(f, "?{text}")
        }
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

    #[test]
    fn spans_have_one_unit() {
        for (ms, text) in [
            (-5, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_240, "1.2 s"),
            (59_000, "59 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn a_query_holds_what_is_set() {
        let none = QueryText::default().with("a", None::<i64>);
        assert_eq!(none.to_string(), "");
        let some = none.with("b", Some("x&y z")).with("c", Some(1));
        assert_eq!(some.to_string(), "?b=x%26y+z&c=1");
    }
}
