//! Parses times that people write: on the command line, in the API and on pages.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _, Utc};

/// The accepted forms, for messages.
pub const FORMS: &str = "2026-12-31 (in UTC), 2026-12-31 14:00 (in UTC), or RFC 3339 such as \
                         2026-12-31T14:00:00+01:00, in the years 1970 to 9999";

const FIRST_YEAR: i32 = 1970;
/// Four digits are the most that every parser of RFC 3339 accepts.
pub const LAST_YEAR: i32 = 9999;
/// A second; chrono counts on in a leap second.
const NANOS: u32 = 1_000_000_000;

/// The text is not a time of the [`FORMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is {FORMS}")]
pub struct InvalidTime;

/// The time of day that a date without a time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// For "since".
    Start,
    /// For "until": its last second.
    End,
}

/// Reads a time of one of the [`FORMS`].
pub fn parse(text: &str, day: Day) -> Result<DateTime<Utc>, InvalidTime> {
    let text = text.trim();
    let at = if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        at.to_utc()
    } else if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        let time = match day {
            Day::Start => NaiveTime::from_hms_opt(0, 0, 0),
            Day::End => NaiveTime::from_hms_opt(23, 59, 59),
        };
        date.and_time(time.ok_or(InvalidTime)?).and_utc()
    } else {
        [
            "%Y-%m-%d %H:%M",
            "%Y-%m-%d %H:%M:%S",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%dT%H:%M:%S",
        ]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .ok_or(InvalidTime)?
        .and_utc()
    };
    // A leap second is the next second, as databases store it.
    let nanos = at.nanosecond();
    let seconds = at.timestamp() + i64::from(nanos / NANOS);
    let at = DateTime::from_timestamp(seconds, nanos % NANOS).ok_or(InvalidTime)?;
    // Not `31-12-2026`, which would be the year 31; an offset may lead out of the last year.
    let four_digits = text.bytes().take_while(u8::is_ascii_digit).count() == 4;
    if four_digits && (FIRST_YEAR..=LAST_YEAR).contains(&at.year()) {
        Ok(at)
    } else {
        Err(InvalidTime)
    }
}

/// Parses the end of a period. A date alone means the end of that day.
pub fn until(text: &str) -> Result<DateTime<Utc>, InvalidTime> {
    parse(text, Day::End)
}

/// Parses the start of a period. A date alone means the start of that day.
pub fn since(text: &str) -> Result<DateTime<Utc>, InvalidTime> {
    parse(text, Day::Start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_is_read() {
        for (text, moment) in [
            ("2026-12-31", "2026-12-31T23:59:59Z"),
            (" 2028-02-29 ", "2028-02-29T23:59:59Z"),
            ("9999-12-31", "9999-12-31T23:59:59Z"),
            ("2026-12-31 14:00", "2026-12-31T14:00:00Z"),
            ("2026-12-31 14:00:05", "2026-12-31T14:00:05Z"),
            ("2026-12-31T14:00", "2026-12-31T14:00:00Z"),
            ("2026-12-31T14:00:00Z", "2026-12-31T14:00:00Z"),
            ("2026-12-31T14:00:00.5Z", "2026-12-31T14:00:00.500Z"),
            ("2026-12-31T14:00:00+01:00", "2026-12-31T13:00:00Z"),
            ("2026-12-31 14:00:00-05:00", "2026-12-31T19:00:00Z"),
            ("2026-12-31T23:59:60Z", "2027-01-01T00:00:00Z"),
            ("2026-12-31 23:59:60", "2027-01-01T00:00:00Z"),
            ("2026-12-31T23:59:60.5Z", "2027-01-01T00:00:00.500Z"),
        ] {
            let read =
                until(text).map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
            assert_eq!(read.as_deref(), Ok(moment), "{text}");
        }
        let start = since("2026-12-31").unwrap();
        assert_eq!(start.to_rfc3339(), "2026-12-31T00:00:00+00:00");
    }

    #[test]
    fn everything_else_is_refused_with_the_forms() {
        for text in [
            "",
            "never",
            "infinity",
            "31.12.2026",
            "31-12-2026",
            "12/31/2026",
            "2026-12",
            "2026-13-01",
            "2027-02-29",
            "2026-12-31 25:00",
            "2026-12-31 14",
            "1969-12-31",
            "0026-12-31",
            "10000-01-01",
            "+10000-01-01T00:00:00Z",
            "290000-01-01",
            "9999-12-31T23:59:59-14:00",
            "9999-12-31T23:59:60Z",
            "-2026-12-31",
            "1798761599",
            "2026-12-31T14:00:00+99:00",
        ] {
            assert_eq!(until(text), Err(InvalidTime), "{text}");
        }
        assert!(InvalidTime.to_string().contains("2026-12-31"));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_the_same(text in "[0-9+-]{1,6}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?") {
            if let Ok(at) = until(&text) {
                prop_assert!((1970..=9999).contains(&at.year()));
                prop_assert_eq!(until(&at.to_rfc3339()), Ok(at));
            }
        }
    }
}
