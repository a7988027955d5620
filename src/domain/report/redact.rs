//! The last look before a report is written: no control characters, no secrets.

use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// `{"` in base64url.
const JWT_BEGINS: &str = "eyJ";

/// Between two texts that are searched as one. Should a secret hold it, what seems to be found is
/// looked at again.
const BETWEEN: u8 = 0;

/// Cuts to `max` characters and replaces control and direction-changing characters.
pub fn clean(text: &str, max: usize) -> String {
    text.chars()
        .map(|c| if is_hostile(c) { '\u{FFFD}' } else { c })
        .take(max)
        .collect()
}

/// The same in place; most texts are clean and short enough.
pub fn tidy(text: &mut String, max: usize) {
    if text.len() > max || text.chars().any(is_hostile) {
        *text = clean(text, max);
    }
}

/// Characters that can hide or reorder what a reader sees.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// Whether the text holds something of the shape of a JWT: three base64url parts, the first of
/// which begins like a JSON object.
pub fn holds_jwt(text: &str) -> bool {
    text.match_indices(JWT_BEGINS).any(|(at, _)| {
        let token: &str = text[at..]
            .split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
            .next()
            .unwrap_or_default();
        let parts: Vec<&str> = token.split('.').collect();
        parts.len() >= 3 && parts[0].len() >= 8 && parts[1].len() >= 8
    })
}

/// The path of the first string in `value` that holds a JWT or one of the secrets.
pub fn find_secret(value: &Value, secrets: &[SecretString]) -> Option<String> {
    if !may_hold_secret(value, secrets) {
        return None;
    }
    // The path is put together on the way back from what was found.
    fn walk(value: &Value, secrets: &[SecretString]) -> Option<String> {
        match value {
            Value::String(text) => leaks(text, secrets).then(String::new),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(i, item)| Some(format!("/{i}{}", walk(item, secrets)?))),
            Value::Object(map) => map.iter().find_map(|(key, item)| {
                if leaks(key, secrets) {
                    return Some(String::new());
                }
                Some(format!("/{key}{}", walk(item, secrets)?))
            }),
            _ => None,
        }
    }
    walk(value, secrets)
}

/// Whether anything of `value` may be what is looked for. All texts are searched as one: each by
/// itself costs several times as much, and hardly a report holds any of it.
fn may_hold_secret(value: &Value, secrets: &[SecretString]) -> bool {
    fn gather(value: &Value, all: &mut Vec<u8>) {
        match value {
            Value::String(text) => all.extend_from_slice(text.as_bytes()),
            Value::Array(items) => items.iter().for_each(|item| gather(item, all)),
            Value::Object(map) => {
                for (key, item) in map {
                    all.extend_from_slice(key.as_bytes());
                    all.push(BETWEEN);
                    gather(item, all);
                }
            }
            _ => {}
        }
        all.push(BETWEEN);
    }
    let mut all = Vec::with_capacity(8 * 1024);
    gather(value, &mut all);
    memmem::find(&all, JWT_BEGINS.as_bytes()).is_some()
        || secrets.iter().any(|secret| {
            let secret = secret.expose_secret();
            is_searched(secret) && memmem::find(&all, secret.as_bytes()).is_some()
        })
}

fn leaks(text: &str, secrets: &[SecretString]) -> bool {
    holds_jwt(text)
        || secrets.iter().any(|secret| {
            let secret = secret.expose_secret();
            is_searched(secret) && text.contains(secret)
        })
}

/// Shorter ones would match ordinary words.
fn is_searched(secret: &str) -> bool {
    secret.len() >= 6
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jwt_shapes_are_found_and_guids_are_not() {
        assert!(holds_jwt("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln"));
        assert!(!holds_jwt("eyJ is how it begins"));
        assert!(!holds_jwt("498476ce-e0fe-48b0-b801-37ba7e2685c6"));
    }

    #[test]
    fn a_secret_is_found_wherever_it_hides() {
        let secrets = [SecretString::from("hunter2hunter2")];
        let report = json!({"checks": [{"evidence": [{"value": "x hunter2hunter2 y"}]}]});
        assert_eq!(
            find_secret(&report, &secrets).as_deref(),
            Some("/checks/0/evidence/0/value")
        );
        assert_eq!(find_secret(&json!({"a": "b"}), &secrets), None);
        let key = json!({"checks": [{"x hunter2hunter2": 1}]});
        assert_eq!(find_secret(&key, &secrets).as_deref(), Some("/checks/0"));
    }

    #[test]
    fn two_texts_are_not_one() {
        let secrets = [
            SecretString::from("abcdefgh"),
            SecretString::from("abcd\0efgh"),
        ];
        let apart = json!({"abcd": "efgh", "list": ["abcd", "efgh"], "ey": "JhbGciOi.aaaaaaaa.b"});
        assert_eq!(find_secret(&apart, &secrets), None);
    }

    #[test]
    fn hostile_characters_are_replaced() {
        assert_eq!(clean("a\u{202E}b\nc", 10), "a\u{FFFD}b\u{FFFD}c");
        assert_eq!(clean("abcdef", 3), "abc");
    }
}
