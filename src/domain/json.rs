//! JSON that another application wrote.
//!
//! Parsed, JSON of many small values takes a hundred times the memory of its text. What is read for people is therefore
//! kept as text, and only what they are shown is parsed.

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
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
    let mut member = None;
    each_member(json, |written, value| {
        if is_named(written, name) {
            member = Some(value.get());
        }
    })
    .ok()?;
    member.filter(|member| *member != "null")
}

/// Passes each member of an object on, in their order, name and value as they are written.
fn each_member<'a>(
    json: &'a str,
    member: impl FnMut(&'a RawValue, &'a RawValue),
) -> serde_json::Result<()> {
    struct Each<F>(F);
    impl<'de, F: FnMut(&'de RawValue, &'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry()? {
                (self.0)(name, value);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(json);
    json.deserialize_map(Each(member))?;
    json.end()
}

/// Returns the members of an object in their order, name and value as they are written.
pub(super) fn members(json: &str) -> serde_json::Result<Vec<(&RawValue, &RawValue)>> {
    let mut members = Vec::new();
    each_member(json, |name, value| members.push((name, value)))?;
    Ok(members)
}

/// Returns whether a name, as it is written, is this one.
pub(super) fn is_named(written: &RawValue, name: &str) -> bool {
    decoded(written).is_some_and(|decoded| decoded == name)
}

/// Reads a name. Half a surrogate pair, which SQLite stores, cannot be read.
fn decoded(written: &RawValue) -> Option<String> {
    serde_json::from_str(written.get()).ok()
}

/// Returns an object with this member in place of any of that name. What is no object stays as it is.
pub fn with_member(object: &Json, name: &str, member: &Json) -> Json {
    let Ok(members) = members(object.text()) else {
        return object.clone();
    };
    let others = members
        .into_iter()
        .filter(|(written, _)| !is_named(written, name));
    let mut all: Vec<String> = others
        .map(|(name, value)| format!("{}:{}", name.get(), value.get()))
        .collect();
    all.push(format!("{}:{}", Value::from(name), member.text()));
    RawValue::from_string(format!("{{{}}}", all.join(","))).map_or_else(|_| object.clone(), Json)
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
/// number is a text here, as it is written, and a member that is too deep is `null`. A member whose name cannot be read
/// is left out.
pub fn read(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let Ok(whole) = serde_json::from_str::<&RawValue>(text) else {
        return Value::Null;
    };
    let Ok(members) = members(whole.get()) else {
        return read_member(whole.get(), DEPTH).unwrap_or_default();
    };
    let read = |member: &RawValue| read_member(member.get(), DEPTH).unwrap_or_default();
    let members = members
        .into_iter()
        .filter_map(|(name, member)| Some((decoded(name)?, read(member))));
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
            let members = members(json).ok()?.into_iter();
            let members = members
                .filter_map(|(name, member)| Some((decoded(name)?, member)))
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
    fn a_name_that_cannot_be_read_hides_no_other_member() {
        let half = Json::of(r#"{"\ud800": 1, "a": {"\udc00": 2, "b": 3}, "\u0063": 4}"#);
        assert_eq!(member(half.text(), "a"), Some(r#"{"\udc00": 2, "b": 3}"#));
        assert_eq!(member(half.text(), "c"), Some("4"));
        assert_eq!(half.value(), json!({"a": {"b": 3}, "c": 4}));
        let with = with_member(&half, "c", &Json::of("5"));
        assert!(with.text().starts_with(r#"{"\ud800":1,"a""#), "{with:?}");
        assert_eq!(with.value(), json!({"a": {"b": 3}, "c": 5}));
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
        assert_eq!(
            read(r#" [1e999, {"a": -1e999}]"#),
            json!(["1e999", {"a": "-1e999"}])
        );
        assert_eq!(read("1e999"), "1e999");
        for other in [
            "{",
            r#"{"a": 1e999"#,
            r#"{"a": 1e999} x"#,
            "[1e999",
            "-",
            "",
        ] {
            assert_eq!(read(other), Value::Null, "{other}");
        }
    }
}
