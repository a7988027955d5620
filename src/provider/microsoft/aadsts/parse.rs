//! Parses a refused sign-in in whatever form the answer has: JSON as documented, JSON in another encoding or
//! with text around it, or a page that quotes it.
//!
//! Only codes, names and ids are extracted. The text is kept for the phrases of the table and not passed on.

use super::table::Table;
use crate::domain::connection::CredentialKind;
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::http::decoding::{decode, object};
use serde_json::Value;
use std::borrow::Cow;
use uuid::Uuid;

/// More codes than this are not looked at.
const MAX_CODES: usize = 1000;

/// The text before a code: its prefix, and the login services' own look-up.
const MARKS: [&str; 4] = [
    "AADSTS",
    "MICROSOFTONLINE.COM/ERROR?CODE=",
    "MICROSOFTONLINE.US/ERROR?CODE=",
    "MICROSOFTONLINE.CN/ERROR?CODE=",
];

/// Members that the login service writes beside an error.
const MARKED: [&str; 5] = [
    "error_description",
    "error_uri",
    "trace_id",
    "correlation_id",
    "suberror",
];

/// Depth to which lists and objects are looked into.
const MAX_DEPTH: usize = 8;

/// The content of a refused sign-in.
#[derive(Default, PartialEq, Eq)]
pub(super) struct ParsedError {
    pub error: Option<String>,
    pub suberror: Option<String>,
    /// Whether it requires a token with other claims.
    pub challenged: bool,
    /// The codes of `error_codes`.
    pub listed: Vec<u64>,
    /// The codes that texts of the answer quote.
    pub quoted: Vec<u64>,
    pub trace_id: Option<Uuid>,
    pub correlation_id: Option<Uuid>,
    /// Whether it has a member that the login service writes beside an error.
    pub is_marked: bool,
    /// In lower case.
    pub text: String,
}

impl ParsedError {
    /// Reads what it can; nothing is not an error.
    pub fn of(bytes: &[u8]) -> Self {
        let text = decode(bytes);
        let tree = object(&text);
        let mut parsed = match &tree {
            Some(object) => Self::of_object(object),
            None => {
                let text = unescape(&text);
                // Quoted on a page, or with something in front of it.
                let within = text
                    .match_indices('{')
                    .take(20)
                    .find_map(|(at, _)| object(&text[at..]).filter(|o| o.get("error").is_some()));
                let mut parsed = within.as_ref().map(Self::of_object).unwrap_or_default();
                if parsed.error.is_none() {
                    parsed.error = error_of_text(&text);
                }
                // Any page may contain such a word.
                parsed.error = parsed.error.filter(|error| is_known(error));
                quoted(&text, &mut parsed.quoted);
                parsed
            }
        };
        parsed.text = text.to_lowercase();
        parsed
    }

    /// Returns whether it contains anything that identifies a refused sign-in.
    pub fn says_something(&self) -> bool {
        self.error.is_some() || self.has_codes()
    }

    /// Returns whether only the login service can have written it.
    pub fn is_certain(&self) -> bool {
        self.has_codes() || self.error.as_deref().is_some_and(is_known)
    }

    /// Returns whether nothing in it is the login service's own, so that an intermediary may have written it.
    pub fn is_foreign(&self) -> bool {
        let error = self.error.as_deref();
        let is_asked_for_claims = self.challenged && error.is_some();
        let is_of_a_login = error.is_some_and(|error| Table::get().is_of_a_login(error));
        !self.is_marked && !self.has_codes() && !is_asked_for_claims && !is_of_a_login
    }

    /// The first of the codes that the table does not have.
    pub fn first_unknown(&self) -> Option<u64> {
        let table = Table::get();
        let mut codes = self.listed.iter().chain(&self.quoted);
        codes.find(|code| table.row(**code).is_none()).copied()
    }

    /// Whether it names an error code, known or not.
    fn has_codes(&self) -> bool {
        !self.listed.is_empty() || !self.quoted.is_empty()
    }

    fn of_object(object: &Value) -> Self {
        let error = object.get("error");
        // As Graph and gateways write it.
        let nested = error.filter(|error| error.is_object());
        let member = |name: &str| {
            object
                .get(name)
                .or_else(|| nested.and_then(|nested| nested.get(name)))
        };
        let name =
            evidence::code(error).or_else(|| evidence::code(nested.and_then(|n| n.get("code"))));
        let id = |name: &str| evidence::guid(member(name).and_then(Value::as_str));
        let mut parsed = Self {
            error: name.map(str::to_ascii_lowercase),
            suberror: evidence::code(member("suberror")).map(str::to_ascii_lowercase),
            is_marked: MARKED.iter().any(|name| member(name).is_some()),
            challenged: member("claims").is_some_and(|claims| !claims.is_null()),
            trace_id: id("trace_id"),
            correlation_id: id("correlation_id"),
            ..Self::default()
        };
        if let Some(codes) = member("error_codes").or_else(|| member("error_code")) {
            numbers(codes, MAX_DEPTH, &mut parsed.listed);
        }
        strings(object, MAX_DEPTH, &mut parsed.quoted);
        parsed
    }
}

/// A page shows JSON with its quotes escaped.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut text = text.to_owned();
    for quote in ["&quot;", "&#34;", "&#x22;", "&#x22;"] {
        text = text.replace(quote, "\"");
    }
    Cow::Owned(text.replace("&#58;", ":").replace("&amp;", "&"))
}

/// Returns the name after `"error":`, in JSON that ends early, or after `error=` in a form.
fn error_of_text(text: &str) -> Option<String> {
    let behind = |mark: &str| text.split_once(mark).map(|(_, rest)| rest);
    let rest = match behind("\"error\"") {
        Some(rest) => rest
            .trim_start()
            .strip_prefix(':')?
            .trim_start()
            .strip_prefix('"')?,
        None if text.starts_with("error=") => &text["error=".len()..],
        None => behind("&error=").or_else(|| behind("?error="))?,
    };
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    let name = Value::from(&rest[..end]);
    evidence::code(Some(&name)).map(str::to_ascii_lowercase)
}

/// Every code of a value: numbers, numbers as text, with or without their prefix, in lists and objects.
fn numbers(value: &Value, depth: usize, found: &mut Vec<u64>) {
    if found.len() >= MAX_CODES || depth == 0 {
        return;
    }
    match value {
        Value::Number(number) => {
            let whole = number
                .as_u64()
                // As some tools write numbers.
                .or_else(|| {
                    number
                        .as_f64()
                        .filter(|n| n.fract() == 0.0)
                        .map(|n| n as u64)
                });
            found.extend(whole.filter(|code| is_code(*code)));
        }
        Value::String(text) => match text.trim().parse() {
            Ok(code) if is_code(code) => found.push(code),
            _ if quoted(text, found) => {}
            _ => {
                let parts = text.split([',', ';', ' ']);
                let codes = parts.filter_map(|part| part.trim().parse().ok());
                found.extend(codes.filter(|code| is_code(*code)));
            }
        },
        Value::Array(items) => items
            .iter()
            .for_each(|item| numbers(item, depth - 1, found)),
        Value::Object(members) => members
            .values()
            .for_each(|item| numbers(item, depth - 1, found)),
        _ => {}
    }
}

/// Whether it is one of the errors that the table knows.
fn is_known(error: &str) -> bool {
    Table::get()
        .by_error(error, CredentialKind::ClientSecret)
        .is_some()
}

/// Five to ten digits: the codes there are have five to eight.
fn is_code(code: u64) -> bool {
    (10_000..10_000_000_000).contains(&code)
}

/// The codes that strings of the value quote.
fn strings(value: &Value, depth: usize, found: &mut Vec<u64>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::String(text) => {
            quoted(text, found);
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| strings(item, depth - 1, found)),
        Value::Object(members) => members
            .values()
            .for_each(|item| strings(item, depth - 1, found)),
        _ => {}
    }
}

/// Adds the codes after `AADSTS` and in links to the look-up; returns whether there is any.
fn quoted(text: &str, found: &mut Vec<u64>) -> bool {
    let before = found.len();
    let upper = text.to_ascii_uppercase();
    for mark in MARKS {
        for (at, _) in upper.match_indices(mark) {
            if found.len() >= MAX_CODES {
                return true;
            }
            let rest = upper[at + mark.len()..].trim_start_matches([' ', ':', '-']);
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let code = rest[..digits].parse().ok();
            found.extend(code.filter(|code| is_code(*code)));
        }
    }
    found.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ParsedError::of(&bytes);
        }
    }
}
