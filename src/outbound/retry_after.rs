//! Parses `Retry-After` (RFC 9110, 10.2.3), for all outbound calls.

use chrono::{DateTime, Utc};
use std::time::Duration;

/// The longest wait that is believed: longer ones are cut to it.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Returns how long to wait: seconds, also with a fraction, or a date in one of the three forms of HTTP. At
/// most [`MAX_RETRY_AFTER`]; zero for a date in the past. `None`: it is neither.
pub fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if value.starts_with(|c: char| c.is_ascii_digit()) && is_decimal(value) {
        // More digits than fit are longer than anything believed.
        let seconds = value.parse().unwrap_or(f64::INFINITY);
        let bounded = f64::min(seconds, MAX_RETRY_AFTER.as_secs_f64());
        return Duration::try_from_secs_f64(bounded).ok();
    }
    let date = httpdate::parse_http_date(value)
        .map(DateTime::<Utc>::from)
        // A date with another zone than GMT, which some servers send.
        .or_else(|_| DateTime::parse_from_rfc2822(value).map(|date| date.with_timezone(&Utc)))
        .ok()?;
    let wait = date.signed_duration_since(now).to_std().unwrap_or_default();
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Digits with at most one decimal point.
fn is_decimal(value: &str) -> bool {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    [whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        "2026-10-21T07:28:00Z".parse().unwrap()
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        for (text, seconds) in [
            ("0", 0.0),
            ("7", 7.0),
            (" 120 ", 120.0),
            ("1.5", 1.5),
            ("0.250", 0.25),
            ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
            ("Wednesday, 21-Oct-26 07:28:30 GMT", 30.0),
            ("Wed Oct 21 07:28:30 2026", 30.0),
            ("Wed, 21 Oct 2026 09:28:30 +0200", 30.0),
            ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
            ("99999999999999999999999999", 86_400.0),
            ("1000000.5", 86_400.0),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 86_400.0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ] {
            assert_eq!(
                retry_after(text, now()),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_neither_is_no_wait() {
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "-0.5",
            "1.",
            ".5",
            "1.2.3",
            "1e3",
            "0x10",
            "1,5",
            "1 2",
            "NaN",
            "inf",
            "soon",
            "2026-10-21T07:28:30Z",
            "Wed, 99 Oct 2026 07:28:30 GMT",
        ] {
            assert_eq!(retry_after(text, now()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_never_panics(text in "\\PC{0,60}|[0-9.]{0,400}|-?[0-9]{1,30}") {
            if let Some(wait) = retry_after(&text, now()) {
                prop_assert!(wait <= MAX_RETRY_AFTER);
            }
        }
    }
}
