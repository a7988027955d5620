//! The last look before a report is written: no control characters, no secrets.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

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
    text.match_indices("eyJ").any(|(at, _)| {
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

fn leaks(text: &str, secrets: &[SecretString]) -> bool {
    holds_jwt(text)
        || secrets.iter().any(|secret| {
            let secret = secret.expose_secret();
            // Shorter ones would match ordinary words.
            secret.len() >= 6 && text.contains(secret)
        })
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
    }

    #[test]
    fn hostile_characters_are_replaced() {
        assert_eq!(clean("a\u{202E}b\nc", 10), "a\u{FFFD}b\u{FFFD}c");
        assert_eq!(clean("abcdef", 3), "abc");
    }
}
