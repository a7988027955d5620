//! Decodes bodies that do not declare what they are: errors under a wrong type, in another encoding, or with
//! text around them.

use serde_json::Value;
use std::borrow::Cow;

/// The text, whatever it is encoded in; what cannot be decoded is replaced.
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect::<String>()
            .into()
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => utf16(bytes, u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes),
    }
}

/// Returns the object that the text begins with, or the first of a list, whatever follows it.
pub fn object(text: &str) -> Option<Value> {
    let text = text.trim_start();
    if !text.starts_with(['{', '[', '"']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next()?.ok()? {
        object @ Value::Object(_) => Some(object),
        Value::Array(items) => items.into_iter().find(Value::is_object),
        // Encoded twice.
        Value::String(inner) if inner.trim_start().starts_with('{') => object_within(&inner),
        _ => None,
    }
}

/// Returns the object that the text begins with, unless text that could contain another one follows.
pub fn object_within(text: &str) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.next()?.ok().filter(Value::is_object)
}
