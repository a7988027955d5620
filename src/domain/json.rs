//! JSON that another application wrote.
//!
//! Parsed, JSON of many small values takes a hundred times the memory of its text. What is read for people is therefore
//! kept as text, and only what they are shown is parsed.

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// Longest text, in bytes, that is parsed whole at any time.
pub const SMALL: usize = 32 * 1024;

/// JSON as it is written. A long one is serialized without being parsed.
#[derive(Clone, Debug)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Keeps the text; `null` where it is no JSON.
    pub fn of(text: &str) -> Self {
        serde_json::from_str(text).map_or_else(|_| Self::default(), Self)
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Parses all of it, as [`read`] does.
    pub fn value(&self) -> Value {
        read(self.text())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text().len() {
            ..=SMALL => self.value().serialize(serializer),
            _ => self.0.serialize(serializer),
        }
    }
}

/// Returns a member of an object as it is written, unless that is `null`. Of several of that name the last one counts.
pub fn member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let mut json = serde_json::Deserializer::from_str(json);
    let member = json.deserialize_map(Named(name)).ok()??.get();
    json.end().ok()?;
    (member != "null").then_some(member)
}

/// Looks for the last member of this name, and keeps no other one.
struct Named<'n>(&'n str);

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut member = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                member = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(member)
    }
}

/// Returns an object with this member in place of any of that name. What is no object stays as it is.
pub fn with_member(object: &Json, name: &str, member: &Json) -> Json {
    let Ok(mut members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(object.text()) else {
        return object.clone();
    };
    members.insert(name.to_owned(), &member.0);
    serde_json::value::to_raw_value(&members).map_or_else(|_| object.clone(), Json)
}

/// Counts brackets that open and commas outside of texts: about as many as there are values.
pub fn values(json: &str) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Reads JSON that another application wrote. Databases accept numbers and depths that verifyd cannot parse: such a
/// number is a text here, as it is written, and a member that is too deep is `null`.
pub fn read(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) else {
        return Value::Null;
    };
    let read = |member: &RawValue| read_member(member.get(), DEPTH).unwrap_or_default();
    let members = members
        .into_iter()
        .map(|(name, member)| (name, read(member)));
    Value::Object(members.collect())
}

/// Levels within which a number that cannot be parsed is looked for.
const DEPTH: usize = 100;

/// Returns the value of valid JSON, unless it is too deep or a text of broken characters.
fn read_member(json: &str, depth: usize) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(json) {
        return Some(value);
    }
    let deeper = depth.checked_sub(1)?;
    match json.bytes().next()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
            let members = members
                .into_iter()
                .map(|(name, member)| Some((name, read_member(member.get(), deeper)?)));
            members.collect::<Option<_>>().map(Value::Object)
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            let items = items
                .into_iter()
                .map(|item| read_member(item.get(), deeper));
            items.collect::<Option<_>>().map(Value::Array)
        }
        b'-' | b'0'..=b'9' => Some(Value::String(json.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_long_text_is_serialized_as_it_is_written() {
        for (length, written) in [(10, r#"{"a":1.0,"#), (SMALL, r#"{"a": 1.00,"#)] {
            let json = Json::of(&format!(r#"{{"a": 1.00, "b": "{}"}}"#, "x".repeat(length)));
            let text = serde_json::to_string(&json).unwrap();
            assert!(text.starts_with(written), "{length}: {text:.60}");
            assert_eq!(read(&text), json.value());
        }
        assert_eq!(Json::of("{a: 1}"), Json::default());
    }

    #[test]
    fn a_member_is_taken_and_put_as_it_is_written() {
        let object = Json::of(r#"{"a": [1.00, {"b": 1e999}], "c": null, "d": 1, "d": 2}"#);
        assert_eq!(member(object.text(), "a"), Some(r#"[1.00, {"b": 1e999}]"#));
        assert_eq!(member(object.text(), "d"), Some("2"));
        for none in ["b", "c"] {
            assert_eq!(member(object.text(), none), None, "{none}");
        }
        for none in [
            r#"[{"a": 1}]"#,
            r#"{"a": 1} x"#,
            r#"{"a": 1, "b"}"#,
            "1",
            "",
        ] {
            assert_eq!(member(none, "a"), None, "{none}");
        }
        let with = with_member(&object, "c", &Json::of("[1.00]"));
        assert_eq!(member(with.text(), "c"), Some("[1.00]"));
        assert_eq!(with.value()["d"], 2);
        let array = Json::of("[]");
        assert_eq!(with_member(&array, "c", &object), array);
    }

    #[test]
    fn brackets_and_commas_in_texts_do_not_count() {
        for (text, count) in [
            ("1", 0),
            (r#"[{"": 0}, [], "a,[{\\\",", 1]"#, 6),
            (r#"{"a\\": 1, "[": ","}"#, 2),
        ] {
            assert_eq!(values(text), count, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_does_not_take_the_rest_away() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let value = read(&format!(r#"{{"a":{deep},"b":1e999,"c":{{"d":1}}}}"#));
        assert_eq!(value, json!({"a": null, "b": "1e999", "c": {"d": 1}}));
        assert_eq!(read(&deep), Value::Null);
    }

    #[test]
    fn a_number_that_no_double_is_near_is_read_as_it_is_written() {
        let long = format!("-{}", "7".repeat(4_000));
        let nested = format!(r#"{{"a": [1, {{ "b" : {long} }}, "x", 1e-999], "c": [ 1E+400 ]}}"#);
        assert_eq!(
            read(&nested),
            json!({"a": [1, {"b": long}, "x", 0.0], "c": ["1E+400"]})
        );
        for other in ["1e999", "{", r#"{"a": 1e999"#, r#"{"a": 1e999} x"#, ""] {
            assert_eq!(read(other), Value::Null, "{other}");
        }
    }
}
