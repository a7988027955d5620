//! Query parameters and bodies, read strictly: what is unknown, repeated or of the wrong type is
//! named, all of it at once.

use super::problem::{FieldError, Kind, Problem};
use crate::domain::names::UnknownName;
use crate::domain::report::redact;
use crate::domain::text_decoding;
use crate::domain::time_input::{self, Day};
use crate::domain::{ALLOWED_ID, InvalidId};
use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Rows of a page when none are asked for, and at most.
pub const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 200;

/// A set of parameters that a query is read into.
pub trait FromFields: Sized {
    /// Takes its own from the fields; what is left is unknown.
    fn from_fields(fields: &mut Fields) -> Self;
}

/// What a request gives, by name.
#[derive(Debug, Default)]
pub struct Fields {
    given: BTreeMap<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
    in_json: bool,
}

impl Fields {
    fn of_query(query: &str) -> Self {
        let mut fields = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            fields.give(&name, Value::from(value.into_owned()));
        }
        fields
    }

    fn of_body(members: Vec<(String, Value)>) -> Self {
        let mut fields = Self {
            in_json: true,
            ..Self::default()
        };
        for (name, value) in members {
            fields.give(&name, value);
        }
        fields
    }

    fn give(&mut self, name: &str, value: Value) {
        let name = short(name);
        if self.given.contains_key(&name) {
            self.refuse(&name, "is given more than once", "once");
        }
        self.given.insert(name, value);
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        // In a body, null is the same as nothing.
        self.given.remove(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, name: &str, problem: &str, allowed: impl Into<String>) {
        self.errors.push(FieldError::new(name, problem, allowed));
    }

    /// An id: in a body a number, in a query its digits.
    pub fn id<T: FromStr<Err = InvalidId>>(&mut self, name: &'static str) -> Option<T> {
        let value = self.take(name)?;
        let id = match &value {
            Value::Number(number) if self.in_json => number.to_string().parse().ok(),
            Value::String(text) if !self.in_json => text.parse().ok(),
            _ => None,
        };
        if id.is_none() {
            self.refuse(name, "is no id", ALLOWED_ID);
        }
        id
    }

    /// One of an enumeration's names.
    pub fn name<T: FromStr<Err = UnknownName>>(&mut self, name: &'static str) -> Option<T> {
        let value = self.take(name)?;
        match value.as_str().unwrap_or_default().parse() {
            Ok(found) => Some(found),
            Err(error) => {
                self.errors.push(FieldError::unknown_name(name, &error));
                None
            }
        }
    }

    /// Where the page before ended. `is_of`: whether it is of this list, in this order.
    pub fn cursor<T: FromStr>(
        &mut self,
        name: &'static str,
        is_of: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let value = self.take(name)?;
        let cursor = value.as_str().and_then(|text| text.parse().ok());
        let cursor = cursor.filter(is_of);
        if cursor.is_none() {
            self.refuse(
                name,
                "is no cursor of this list",
                "the one in `next` of the page before",
            );
        }
        cursor
    }

    /// One of these words.
    pub fn word(&mut self, name: &'static str, words: &[&str]) -> Option<String> {
        let value = self.take(name)?;
        let word = value.as_str().filter(|text| words.contains(text));
        if word.is_none() {
            self.refuse(name, "is not known", words.join(", "));
        }
        word.map(ToOwned::to_owned)
    }

    /// A text of 1 to `most` characters, without control characters; with `lines` tabs and line breaks are none.
    pub fn text(&mut self, name: &'static str, most: usize, lines: bool) -> Option<String> {
        let value = self.take(name)?;
        let wrong = |c: char| c.is_control() && !(lines && matches!(c, '\n' | '\r' | '\t'));
        let text = value
            .as_str()
            .map(str::trim)
            .filter(|text| (1..=most).contains(&text.chars().count()) && !text.contains(wrong));
        if text.is_none() {
            self.refuse(name, "is not allowed", allowed_text(most, lines));
        }
        text.map(ToOwned::to_owned)
    }

    /// The same, and it must be there.
    pub fn required_text(&mut self, name: &'static str, most: usize, lines: bool) -> String {
        let before = self.errors.len();
        let text = self.text(name, most, lines);
        if text.is_none() && self.errors.len() == before {
            self.refuse(name, "is missing", allowed_text(most, lines));
        }
        text.unwrap_or_default()
    }

    /// A time until which something holds: a date alone is the end of that day.
    pub fn time(&mut self, name: &'static str) -> Option<DateTime<Utc>> {
        self.moment(name, Day::End)
    }

    /// A time from which on something holds: a date alone is the beginning of that day.
    pub fn since(&mut self, name: &'static str) -> Option<DateTime<Utc>> {
        self.moment(name, Day::Start)
    }

    fn moment(&mut self, name: &'static str, day: Day) -> Option<DateTime<Utc>> {
        let value = self.take(name)?;
        let time = value
            .as_str()
            .and_then(|text| time_input::parse(text, day).ok());
        if time.is_none() {
            self.refuse(name, "is no time", time_input::FORMS);
        }
        time
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str) -> Option<bool> {
        let value = self.take(name)?;
        let flag = match &value {
            Value::Bool(flag) if self.in_json => Some(*flag),
            Value::String(text) if !self.in_json => text.parse().ok(),
            _ => None,
        };
        if flag.is_none() {
            self.refuse(name, "is neither true nor false", "true, false");
        }
        flag
    }

    /// How many rows a page is to have.
    pub fn limit(&mut self) -> u32 {
        let Some(value) = self.take("limit") else {
            return PAGE;
        };
        let limit: Option<u32> = value.as_str().and_then(|text| text.parse().ok());
        match limit.filter(|limit| (1..=LARGEST_PAGE).contains(limit)) {
            Some(limit) => limit,
            None => {
                let allowed = format!("a whole number from 1 to {LARGEST_PAGE}");
                self.refuse("limit", "is not allowed", allowed);
                PAGE
            }
        }
    }

    fn finish(mut self, kind: Kind) -> Result<(), Problem> {
        let allowed = match self.known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        for name in std::mem::take(&mut self.given).into_keys() {
            self.refuse(&name, "is not known", allowed.clone());
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(kind, self.errors))
        }
    }
}

fn allowed_text(most: usize, lines: bool) -> String {
    let control = if lines {
        "of control ones only tabs and line breaks"
    } else {
        "none of them a control one"
    };
    format!("a text of 1 to {most} characters, {control}")
}

/// A name as it is quoted in an answer.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Nothing may be given.
#[derive(Debug)]
pub struct Nothing;

impl FromFields for Nothing {
    fn from_fields(_: &mut Fields) -> Self {
        Self
    }
}

/// The query of a request.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: FromFields, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut fields = Fields::of_query(parts.uri.query().unwrap_or_default());
        let read = T::from_fields(&mut fields);
        fields.finish(Kind::InvalidQuery)?;
        Ok(Self(read))
    }
}

/// The body of a request, a JSON object or nothing, and its bytes. A body takes no query beside it.
#[derive(Debug)]
pub struct JsonBody<T> {
    pub read: T,
    pub bytes: Bytes,
}

impl<T: FromFields, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, Problem> {
        let Query(Nothing) = request.extract_parts().await?;
        let unsupported = unsupported(request.headers());
        let bytes = Bytes::from_request(request, &())
            .await
            .map_err(|rejection| match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE),
                _ => Problem::new(Kind::BadRequest, "The body did not arrive whole."),
            })?;
        let members = if bytes.is_empty() {
            Vec::new()
        } else if let Some(problem) = unsupported {
            return Err(problem);
        } else {
            match serde_json::from_slice(&bytes) {
                Ok(Members(members)) => members,
                Err(error) if error.is_data() => {
                    return Err(Problem::new(Kind::MalformedBody, "It is no object."));
                }
                Err(error) => {
                    let decoded = text_decoding::decode(&bytes);
                    let detail = match decoded.is_ok_and(|text| text.as_bytes() != bytes) {
                        true => "It must be UTF-8 without a byte order mark.".to_owned(),
                        false => format!("Line {}, column {}.", error.line(), error.column()),
                    };
                    return Err(Problem::new(Kind::MalformedBody, detail));
                }
            }
        };
        let mut fields = Fields::of_body(members);
        let read = T::from_fields(&mut fields);
        fields.finish(Kind::InvalidBody)?;
        Ok(Self { read, bytes })
    }
}

/// The members of an object in their order, also those of the same name.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// Refuses a body that is not JSON in UTF-8, by its headers.
fn unsupported(headers: &HeaderMap) -> Option<Problem> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "The body must be sent without a Content-Encoding.";
        return Some(Problem::new(Kind::MediaType, detail));
    }
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let mut parts = kind.unwrap_or_default().split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Some(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let charset = redact::clean(parts.find_map(other_charset)?, 40);
    let detail = format!("The body must be UTF-8; the charset of its Content-Type is {charset:?}.");
    Some(Problem::new(Kind::MediaType, detail))
}

/// Returns the charset that a parameter of the content's type names, if it is neither UTF-8 nor ASCII, which is a part of
/// it.
fn other_charset(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=')?;
    let value = value.trim().trim_matches(['"', '\'']);
    let is_utf8 = |known: &str| value.eq_ignore_ascii_case(known);
    let is_charset = name.trim().eq_ignore_ascii_case("charset");
    (is_charset && !["utf-8", "utf8", "us-ascii"].into_iter().any(is_utf8)).then_some(value)
}

/// The id at the end or in the middle of the path. What is no id is the id of nothing.
#[derive(Clone, Copy, Debug)]
pub struct PathId<T>(pub T);

impl<T: FromStr<Err = InvalidId> + Send, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::not_found())?;
        text.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ConnectionId;

    #[test]
    fn a_body_keeps_to_the_types_of_json() {
        let body = serde_json::json!({ "a": "7", "b": 7, "c": null, "d": "\u{7}", "e": true });
        let Value::Object(body) = body else {
            unreachable!()
        };
        let mut fields = Fields::of_body(body.into_iter().collect());
        assert_eq!(fields.id::<ConnectionId>("a"), None);
        assert_eq!(fields.id("b"), Some(ConnectionId(7)));
        assert_eq!(fields.id::<ConnectionId>("c"), None);
        assert_eq!(fields.text("d", 10, true), None);
        assert_eq!(fields.flag("e"), Some(true));
        let problem = fields.finish(Kind::InvalidBody).unwrap_err();
        let fields: Vec<&str> = problem.errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["a", "d"]);
    }
}
