//! Removes control characters from texts of a report, and finds secrets in it.

use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

/// `{"` in base64url.
const JWT_BEGINS: &str = "eyJ";

/// Cuts to `max` characters and replaces control and direction-changing characters.
pub fn clean(text: &str, max: usize) -> String {
    text.chars()
        .map(|c| if is_hostile(c) { '\u{FFFD}' } else { c })
        .take(max)
        .collect()
}

/// Cleans a text in place. Most texts are clean and short enough.
pub fn tidy(text: &mut String, max: usize) {
    // Of plain ASCII only control characters are hostile, and that is seen many bytes at a time.
    let is_plain = text.bytes().all(|b| (b' '..0x7f).contains(&b));
    if text.len() > max || (!is_plain && text.chars().any(is_hostile)) {
        *text = clean(text, max);
    }
}

/// Cleans a document, whose tabs and line breaks hide nothing.
pub fn clean_document(text: &str) -> String {
    text.replace(
        |c| is_hostile(c) && !matches!(c, '\t' | '\n' | '\r'),
        "\u{FFFD}",
    )
}

/// Characters that can hide or reorder what a reader sees: those that are invisible by themselves (Unicode's
/// Default_Ignorable_Code_Point, but the variation selectors that emoji have), line separators, and those that
/// change the direction.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
                | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}'
                | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0000}'..='\u{E0FFF}'
        )
}

/// Returns whether the text contains the form of a JWT: three base64url parts, the first of which begins like
/// a JSON object.
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

/// Returns whether the document may contain what `find_secret` looks for. One search of its text costs a
/// fraction of a search of each string, and hardly any report contains a match.
///
/// JSON escapes each character separately, so a text that contains a secret, written as JSON, contains the
/// secret written as JSON. The reverse does not hold.
pub fn may_hold_secret(json: &str, secrets: &[SecretString]) -> bool {
    let holds = |wanted: &str| memmem::find(json.as_bytes(), wanted.as_bytes()).is_some();
    holds(JWT_BEGINS)
        || secrets.iter().any(|secret| {
            let secret = secret.expose_secret();
            is_searched(secret)
                && match as_in_json(secret) {
                    Some(written) => holds(&written),
                    None => holds(secret),
                }
        })
}

/// Returns the secret as it appears between the quotes of a JSON string; `None` where that is the secret
/// itself.
fn as_in_json(secret: &str) -> Option<Zeroizing<String>> {
    let is_plain = |b: u8| b >= b' ' && b != b'"' && b != b'\\';
    if secret.bytes().all(is_plain) {
        return None;
    }
    // Six bytes for a control character: the buffer never moves, so no copy is left in memory.
    let mut written = Zeroizing::new(Vec::with_capacity(6 * secret.len() + 2));
    serde_json::to_writer(&mut *written, secret).ok()?;
    let inner = written.get(1..written.len().checked_sub(1)?)?;
    Some(Zeroizing::new(std::str::from_utf8(inner).ok()?.to_owned()))
}

/// Returns the path of the first string in `value` that contains a JWT or one of the secrets.
pub fn find_secret(value: &Value, secrets: &[SecretString]) -> Option<String> {
    match value {
        Value::String(text) => leaks(text, secrets).then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(i, item)| Some(format!("/{i}{}", find_secret(item, secrets)?))),
        Value::Object(map) => map.iter().find_map(|(key, item)| {
            if leaks(key, secrets) {
                return Some(String::new());
            }
            Some(format!("/{key}{}", find_secret(item, secrets)?))
        }),
        _ => None,
    }
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
    use proptest::prelude::*;
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

    proptest! {
        #[test]
        fn nothing_is_found_that_may_not_be_there(
            secret in r#"[a-e"\\\n\u{1}\u{e4}]{6,8}"#,
            around in r#"[a-e"\\\n\u{1}\u{e4}]{0,6}"#,
            inside in proptest::bool::ANY,
        ) {
            let text = if inside { format!("{around}{secret}{around}") } else { around };
            let document = json!({"checks": [{"evidence": [{"value": text}]}]});
            let secrets = [SecretString::from(secret)];
            let may = may_hold_secret(&document.to_string(), &secrets);
            let found = find_secret(&document, &secrets).is_some();
            prop_assert_eq!(found, inside);
            prop_assert!(may || !found);
        }
    }

    #[test]
    fn hostile_characters_are_replaced() {
        assert_eq!(clean("a\u{202E}b\nc", 10), "a\u{FFFD}b\u{FFFD}c");
        assert_eq!(clean("abcdef", 3), "abc");
        let document = "<p>a\u{202E}b\u{200B}\r\n\t\u{1B}[31m \u{E4}\u{1F600}\u{FE0F}</p>";
        let cleaned = "<p>a\u{FFFD}b\u{FFFD}\r\n\t\u{FFFD}[31m \u{E4}\u{1F600}\u{FE0F}</p>";
        assert_eq!(clean_document(document), cleaned);
    }
}
