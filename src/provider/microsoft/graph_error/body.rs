//! Parses an error object of Graph at every depth: services behind Graph put their own error, as JSON, into
//! the message of the outer one.

use crate::outbound::retry_after::retry_after;
use crate::provider::microsoft::evidence;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::time::Duration;

/// Objects and texts are read to this depth.
const DEPTH: usize = 8;

/// Pieces of each kind that are read.
const PIECES: usize = 32;

/// Codes and texts of one error, the outermost first.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    /// Codes of the form that may become evidence.
    pub codes: Vec<String>,
    /// Messages and codes, in lowercase and without addresses. They decide, and never become evidence.
    texts: Vec<String>,
    /// Whether a service behind Graph wrote it: the message is JSON.
    pub nested: bool,
    /// How long the service asks to wait, as it writes that.
    retry_after: Option<String>,
    /// Permissions of which the application must have one, by a message of Intune.
    pub asks_for: Vec<String>,
}

impl ErrorBody {
    /// Reads the answer's error; None where the body has none, so that it is not Graph's own answer.
    pub fn of(body: Option<&Value>) -> Option<Self> {
        let error = error(body)?;
        let mut parsed = Self::default();
        match error {
            // As OAuth has it.
            Value::String(_) => parsed.code(error),
            _ => parsed.walk(error, 0),
        }
        Some(parsed)
    }

    /// Returns whether one text contains all these words (given in lowercase).
    pub fn says(&self, words: &[impl AsRef<str>]) -> bool {
        self.texts
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word.as_ref())))
    }

    /// Returns how long the service asks to wait, in a form of the header.
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        retry_after(self.retry_after.as_deref()?, now)
    }

    fn walk(&mut self, value: &Value, depth: usize) {
        if depth == DEPTH {
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match name.to_ascii_lowercase().as_str() {
                        "code" | "errorcode" => self.code(value),
                        "message" | "value" | "customapierrorphrase" => self.text(value, depth),
                        "error" | "innererror" | "details" => self.walk(value, depth + 1),
                        "retryafter" if self.retry_after.is_none() => {
                            self.retry_after = text_of(value);
                        }
                        _ => {}
                    }
                }
            }
            Value::Array(items) => items
                .iter()
                .take(PIECES)
                .for_each(|item| self.walk(item, depth + 1)),
            _ => {}
        }
    }

    fn code(&mut self, value: &Value) {
        let Some(code) = evidence::code(Some(value)) else {
            return;
        };
        self.add(code);
        if self.codes.len() < PIECES {
            self.codes.push(code.to_owned());
        }
    }

    fn text(&mut self, value: &Value, depth: usize) {
        let Some(text) = value.as_str() else {
            return self.walk(value, depth + 1);
        };
        let inner = text.find('{').and_then(|start| {
            serde_json::Deserializer::from_str(&text[start..])
                .into_iter::<Value>()
                .next()?
                .ok()
        });
        match inner {
            Some(inner) => {
                self.nested = true;
                self.walk(&inner, depth + 1);
            }
            None => {
                self.asks_for(text);
                self.add(text);
            }
        }
    }

    /// Reads the permissions that "one of the following scopes: A, B - Operation ID …" names.
    fn asks_for(&mut self, text: &str) {
        let Some((_, names)) = text.split_once("following scopes:") else {
            return;
        };
        let names = names.split(|c: char| c == ',' || c.is_whitespace());
        let names = names
            .filter(|name| !name.is_empty())
            .take_while(|name| name.contains('.') && evidence::is_plain_permission_name(name));
        self.asks_for.extend(names.take(PIECES).map(str::to_owned));
    }

    fn add(&mut self, text: &str) {
        if self.texts.len() < PIECES {
            self.texts
                .push(without_addresses(text).to_ascii_lowercase());
        }
    }
}

/// Returns the words of a text without addresses, which name services and calls and not the error.
fn without_addresses(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains("://"));
    words.collect::<Vec<_>>().join(" ")
}

/// The error, in today's form or in that of the older directory service.
pub(super) fn error(body: Option<&Value>) -> Option<&Value> {
    let body = body?;
    body.get("error").or_else(|| body.get("odata.error"))
}

/// A text or number as a text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wait_is_read_as_in_the_header() {
        let now = "2026-10-21T07:28:00Z".parse().unwrap();
        for (value, seconds) in [
            (json!(7), Some(7.0)),
            (json!("7"), Some(7.0)),
            (json!(1.5), Some(1.5)),
            (json!("Wed, 21 Oct 2026 07:28:30 GMT"), Some(30.0)),
            (json!(u64::MAX), Some(86_400.0)),
            (json!(-1), None),
            (json!("soon"), None),
            (json!([7]), None),
        ] {
            let service = json!({ "retryAfter": value }).to_string();
            let parsed = ErrorBody::of(Some(&json!({"error": {"message": service}}))).unwrap();
            let wait = seconds.map(Duration::from_secs_f64);
            assert_eq!(parsed.retry_after(now), wait, "{value}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let mut message = json!({"Message": "deepest"}).to_string();
        for _ in 0..DEPTH {
            message = json!({ "Message": message }).to_string();
        }
        let parsed = ErrorBody::of(Some(&json!({"error": {"message": message}}))).unwrap();
        assert!(!parsed.says(&["deepest"]));
        let many = vec![json!({"code": "c", "message": "m"}); 1000];
        let parsed = ErrorBody::of(Some(&json!({"error": {"details": many}}))).unwrap();
        assert!(parsed.codes.len() <= PIECES && parsed.texts.len() <= PIECES);
    }
}
