//! Parses an error object of Graph at every depth: services behind Graph put their own error, as JSON, into
//! the message of the outer one.

use crate::provider::microsoft::evidence;
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
    /// How long the service asks to wait.
    pub retry_after: Option<Duration>,
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
                        "retryafter" => self.retry_after = self.retry_after.or(seconds(value)),
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

fn seconds(value: &Value) -> Option<Duration> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
        .map(crate::provider::microsoft::http::bounded_wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
