//! Decodes columns that another application may write, so that no value can cause a panic or fail a
//! statement. There is one rule for each kind of value and database.
//!
//! The driver panics on a time that `chrono` cannot represent (`infinity`, the year 290000), so no such
//! column is ever decoded as a `DateTime`. `tests/system/store/hostile_rows.rs` tests that.

use crate::domain::json::{self, Json};
use crate::domain::run::RunRequest;
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Database, Decode, Postgres, Sqlite, Type, TypeInfo as _, ValueRef as _};
use std::borrow::Cow;

/// Seconds from the Unix epoch to PostgreSQL's, in microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A time that any application may have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// In the years 1 to 9999, which every surface can show.
    At(DateTime<Utc>),
    /// Earlier than that: `-infinity`, too.
    Before,
    /// Later than that: `infinity`, too.
    After,
    /// A text or number that is no time.
    Unknown,
}

impl Time {
    fn of(at: DateTime<Utc>) -> Self {
        match at.year() {
            ..1 => Self::Before,
            1..10_000 => Self::At(at),
            _ => Self::After,
        }
    }

    fn of_micros(since_postgres_epoch: i64) -> Self {
        let at = since_postgres_epoch
            .checked_add(POSTGRES_EPOCH)
            .and_then(DateTime::from_timestamp_micros);
        match at {
            Some(at) => Self::of(at),
            None if since_postgres_epoch < 0 => Self::Before,
            None => Self::After,
        }
    }

    fn of_text(text: &str) -> Self {
        let text = text.trim();
        let naive = |format| NaiveDateTime::parse_from_str(text, format).ok();
        let parsed = DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|at| at.to_utc())
            .or_else(|| {
                ["%F %T%.f%:z", "%FT%T%.f%:z", "%F %R%:z", "%FT%R%:z"]
                    .iter()
                    .find_map(|format| DateTime::parse_from_str(text, format).ok())
                    .map(|at| at.to_utc())
            })
            .or_else(|| {
                [
                    "%F %T%.f",
                    "%F %T%.fZ",
                    "%FT%T%.f",
                    "%FT%T%.fZ",
                    "%F %R",
                    "%F %RZ",
                    "%FT%R",
                    "%FT%RZ",
                ]
                .iter()
                .find_map(|format| naive(format))
                .or_else(|| {
                    let date = NaiveDate::parse_from_str(text, "%F").ok()?;
                    date.and_hms_opt(0, 0, 0)
                })
                .map(|at| at.and_utc())
            });
        match (parsed, text) {
            (Some(at), _) => Self::of(at),
            (None, "infinity" | "+infinity") => Self::After,
            (None, "-infinity") => Self::Before,
            (None, _) if Self::has_long_year(text) => Self::After,
            (None, _) => Self::Unknown,
        }
    }

    /// Reads a text of SQLite as its own functions do, by which lists are sorted and rows found: what they do not read is
    /// no time.
    fn of_sqlite(text: &str) -> Self {
        let read = match read_by_sqlite(text) {
            Some(form) => Self::of_text(&form),
            None if is_late_in_sqlite(text) => Self::After,
            None => match Self::of_text(text) {
                Self::At(_) | Self::After => Self::Unknown,
                other => other,
            },
        };
        match read {
            Self::At(at) if is_leap_second(at) => Self::Unknown,
            // However far from UTC: lists ask for the year as it is written.
            Self::At(_) if text.starts_with("0000") => Self::Before,
            // They round to milliseconds, and know none after the year 9999.
            Self::At(at) if at > LATEST + TimeDelta::microseconds(999_499) => Self::After,
            read => read,
        }
    }

    /// Whether it is a time of a year with more than four digits.
    fn has_long_year(text: &str) -> bool {
        let text = text.trim_start_matches('+');
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (year, rest) = text.split_at(digits);
        digits > 4
            && !year.starts_with('0')
            && matches!(Self::of_text(&format!("2000{rest}")), Self::At(_))
    }

    /// Returns the time. One that is out of range counts as absent.
    pub fn known(self) -> Option<DateTime<Utc>> {
        match self {
            Self::At(at) => Some(at),
            Self::Before | Self::After | Self::Unknown => None,
        }
    }

    /// Whether it is the end of a period that is past, though no known time. `infinity` commonly means never, so it
    /// counts as no end. `-infinity`, and a value that is no time, count as past: nothing is trusted for longer than was
    /// written.
    pub fn is_past_end(self) -> bool {
        matches!(self, Self::Before | Self::Unknown)
    }

    /// Of something that has happened, whenever that was: the nearest time that can be shown.
    pub fn happened(self) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::After => LATEST,
            Self::Before | Self::Unknown => EARLIEST,
        }
    }
}

fn is_leap_second(at: DateTime<Utc>) -> bool {
    at.timestamp_subsec_nanos() >= 1_000_000_000
}

/// 0001-01-01T00:00:00Z
const EARLIEST: DateTime<Utc> = match DateTime::from_timestamp(-62_135_596_800, 0) {
    Some(at) => at,
    None => DateTime::UNIX_EPOCH,
};

/// 9999-12-31T23:59:59Z
const LATEST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(at) => at,
    None => DateTime::UNIX_EPOCH,
};

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        <DateTime<Utc> as Type<Postgres>>::compatible(ty)
            || <NaiveDateTime as Type<Postgres>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(match value.format() {
            PgValueFormat::Binary => Self::of_micros(<i64 as Decode<Postgres>>::decode(value)?),
            PgValueFormat::Text => Self::of_text(value.as_str().unwrap_or_default()),
        })
    }
}

impl Type<Sqlite> for Time {
    fn type_info() -> SqliteTypeInfo {
        <DateTime<Utc> as Type<Sqlite>>::type_info()
    }

    /// SQLite stores any value, so an invalid time is found only by parsing it.
    fn compatible(_: &SqliteTypeInfo) -> bool {
        true
    }
}

impl<'r> Decode<'r, Sqlite> for Time {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        if matches!(value.type_info().name(), "INTEGER" | "REAL") {
            let at = <DateTime<Utc> as Decode<Sqlite>>::decode(value);
            return Ok(at.map_or(Self::Unknown, Self::of));
        }
        let bytes = <&[u8] as Decode<Sqlite>>::decode(value).unwrap_or_default();
        Ok(Self::of_sqlite(&String::from_utf8_lossy(bytes)))
    }
}

/// What SQLite's own functions take for a blank.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// Returns a date, or a time as RFC 3339 has it, that SQLite's own functions read in a text: digits padded with zeros,
/// blanks and any `T` before the time, blanks before the zone and at the end, and an offset of at most 14 hours with a
/// colon. `None`: they read none, or none that names a day.
fn read_by_sqlite(text: &str) -> Option<String> {
    let text = text.trim_end_matches(BLANKS);
    let (date, behind_date) = split_form(text, "0000-00-00")?;
    let time = behind_date.trim_start_matches(|c| c == 'T' || BLANKS.contains(&c));
    if time.is_empty() {
        return Some(date.to_owned());
    }
    let (minute, behind_minute) = split_form(time, "00:00")?;
    let (second, zone) = match split_form(behind_minute, ":00") {
        None => (":00", behind_minute),
        Some((second, behind_second)) => {
            let fraction = behind_second.strip_prefix('.').unwrap_or_default();
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            // A point is read with digits behind it.
            let point = usize::from(digits > 0);
            behind_minute.split_at(second.len() + point + digits)
        }
    };
    let zone = match zone.trim_start_matches(BLANKS) {
        "" | "Z" | "z" => "Z",
        offset => {
            let form = split_form(offset, "+00:00").or_else(|| split_form(offset, "-00:00"));
            let (offset, _) = form.filter(|(_, behind)| behind.is_empty())?;
            offset.get(1..3).filter(|hours| *hours <= "14")?;
            offset
        }
    };
    Some(format!("{date}T{minute}{second}{zone}"))
}

/// Whether a text of SQLite names no end, or a time of a year with more than four digits. `bounds::end!` is the same.
fn is_late_in_sqlite(text: &str) -> bool {
    let unsigned = text.trim_start_matches('+');
    let rest = unsigned.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = unsigned.len() - rest.len();
    let is_long_year = digits > 4 && !unsigned.starts_with('0');
    matches!(text.trim_end_matches(BLANKS), "infinity" | "+infinity")
        || is_long_year && matches!(Time::of_sqlite(&format!("2000{rest}")), Time::At(_))
}

/// Splits off a beginning of this form, in which 0 stands for a digit.
fn split_form<'a>(text: &'a str, form: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = text.split_at_checked(form.len())?;
    let mut pairs = start.bytes().zip(form.bytes());
    let has_form = pairs.all(|(byte, wanted)| match wanted {
        b'0' => byte.is_ascii_digit(),
        sign => byte == sign,
    });
    has_form.then_some((start, rest))
}

/// The bytes of a text or of JSON, as the server sent them.
pub(super) trait TextBytes<'r, DB: Database> {
    fn bytes(value: DB::ValueRef<'r>) -> Result<&'r [u8], BoxDynError>;
}

pub(super) struct AsSent;

impl<'r> TextBytes<'r, Postgres> for AsSent {
    fn bytes(value: PgValueRef<'r>) -> Result<&'r [u8], BoxDynError> {
        let is_jsonb = value.type_info().name() == "JSONB";
        let binary = value.format() == PgValueFormat::Binary;
        let bytes = value.as_bytes()?;
        // The first byte of binary `jsonb` is the version of the format.
        Ok(bytes
            .get(usize::from(is_jsonb && binary)..)
            .unwrap_or_default())
    }
}

impl<'r> TextBytes<'r, Sqlite> for AsSent {
    fn bytes(value: SqliteValueRef<'r>) -> Result<&'r [u8], BoxDynError> {
        <&[u8] as Decode<Sqlite>>::decode(value)
    }
}

fn text<'r, DB: Database>(value: DB::ValueRef<'r>) -> Cow<'r, str>
where
    AsSent: TextBytes<'r, DB>,
{
    String::from_utf8_lossy(AsSent::bytes(value).unwrap_or_default())
}

/// Defines how a type is decoded from a text, in both databases.
macro_rules! from_text {
    ($type:ident, $like:ty, |$text:ident| $made:expr) => {
        impl Type<Postgres> for $type {
            fn type_info() -> PgTypeInfo {
                <$like as Type<Postgres>>::type_info()
            }

            fn compatible(ty: &PgTypeInfo) -> bool {
                <$like as Type<Postgres>>::compatible(ty)
            }
        }

        impl Type<Sqlite> for $type {
            fn type_info() -> SqliteTypeInfo {
                <$like as Type<Sqlite>>::type_info()
            }

            fn compatible(_: &SqliteTypeInfo) -> bool {
                true
            }
        }

        impl<'r, DB: Database> Decode<'r, DB> for $type
        where
            AsSent: TextBytes<'r, DB>,
        {
            fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
                let $text = text::<DB>(value);
                Ok($made)
            }
        }
    };
}

/// A text, also one that is not valid UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub String);

from_text!(Text, String, |text| Self(text.into_owned()));

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// JSON that another application wrote. Databases accept numbers and depths that verifyd cannot parse: such a
/// number is a text here, as it is written, and a member that is too deep is `null`.
#[derive(Debug)]
pub(super) struct Tolerant(pub Value);

from_text!(Tolerant, Value, |text| Self(json::read(&text)));

/// JSON that another application wrote, as it is written; `null` where it is none that can be read.
#[derive(Debug)]
pub(super) struct AsWritten(pub Json);

from_text!(AsWritten, Value, |text| Self(Json::of(&text)));

/// `operation_runs.context` as a claim reads it: only the members that a check needs.
#[derive(Debug)]
pub(super) struct Request(pub RunRequest);

from_text!(Request, Value, |text| Self(RunRequest::from_json(&text)));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_of_microseconds_is_a_time(micros in any::<i64>()) {
            match Time::of_micros(micros) {
                Time::At(at) => prop_assert!((1..10_000).contains(&at.year())),
                Time::Before => prop_assert!(micros < 0),
                Time::After => prop_assert!(micros > 0),
                Time::Unknown => prop_assert!(false),
            }
        }

        #[test]
        fn every_text_is_a_time_or_none(text in ".{0,40}") {
            let _ = Time::of_text(&text).happened();
            let _ = Time::of_sqlite(&text).happened();
        }
    }

    #[test]
    fn the_ends_of_the_range_are_known() {
        assert_eq!(Time::of_micros(i64::MIN), Time::Before);
        assert_eq!(Time::of_micros(i64::MAX), Time::After);
        assert_eq!(Time::of(EARLIEST), Time::At(EARLIEST));
        assert_eq!(Time::of(LATEST), Time::At(LATEST));
        for (text, read) in [
            ("99999-01-01", Time::After),
            ("290000-02-29 00:00:00", Time::After),
            ("+12026-01-02T03:04:05Z", Time::After),
            ("-4713-01-01", Time::Before),
            ("99999-13-01", Time::Unknown),
            ("20260102", Time::Unknown),
            ("00002026-01-02", Time::Unknown),
            ("never", Time::Unknown),
        ] {
            assert_eq!(Time::of_text(text), read, "{text}");
        }
        assert_eq!(EARLIEST.to_rfc3339(), "0001-01-01T00:00:00+00:00");
        assert_eq!(LATEST.to_rfc3339(), "9999-12-31T23:59:59+00:00");
        for (text, known) in [
            ("2026-01-02T03:04:05.678Z", true),
            ("2026-01-02 03:04:05", true),
            ("2026-01-02", true),
            ("2026-01-02 03:04+02:00", true),
            ("+12026-01-02 03:04:05", false),
            ("-0001-01-02 03:04:05", false),
            ("infinity", false),
            ("soon", false),
            ("", false),
        ] {
            assert_eq!(Time::of_text(text).known().is_some(), known, "{text}");
        }
    }

    #[test]
    fn a_text_of_sqlite_is_a_time_where_its_functions_read_one() {
        for text in [
            "2030-01-05",
            "2030-01-05  ",
            "2030-01-05 03:04",
            "2030-01-05T03:04:05",
            "2030-01-05T03:04:05.678901Z",
            "2030-01-05 03:04+02:00",
            "2030-01-05T03:04:05-14:59",
            "2030-01-05T03:04:05z",
            "2030-01-05 03:04:05 Z",
            "2030-01-05 03:04:05.6  +02:00 ",
            "2030-01-05  03:04\tz",
            "2030-01-05T",
        ] {
            assert!(matches!(Time::of_sqlite(text), Time::At(_)), "{text}");
        }
        for text in [
            "2030-1-5",
            "2030-01-5",
            " 2030-01-05",
            "2030-01-05 3:04",
            "2030-01-05T03:4:05",
            "2030-01-05T03:04:5",
            "2030-01-05t03:04:05Z",
            "2030-01-05Z",
            "2030-01-05T03:04.5",
            "2030-01-05T03:04:05.Z",
            "2030-01-05T03:04:05+ 02:00",
            "2030-01-05T24:00",
            "2030-01-05T03:04:60Z",
            "2030-01-05T03:04:05+0200",
            "2030-01-05T03:04:05+15:00",
        ] {
            assert_eq!(Time::of_sqlite(text), Time::Unknown, "{text}");
        }
        for text in [
            "infinity ",
            "99999-01-01",
            "+12026-01-01T00:00:00Z",
            "9999-12-31T23:59:59.9996Z",
            "9999-12-31T23:59:59-02:00",
        ] {
            assert_eq!(Time::of_sqlite(text), Time::After, "{text}");
        }
        for text in [" infinity", "99999-1-1", "99999-13-01"] {
            assert_eq!(Time::of_sqlite(text), Time::Unknown, "{text}");
        }
    }
}
