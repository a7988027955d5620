//! The body of an answer: bytes, and what can be made of them.

use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use zeroize::Zeroize;

/// What was received, within the limit. `Debug` shows nothing of it.
pub(in super::super) struct Body {
    bytes: Vec<u8>,
    /// Overwritten when it is dropped: it may hold an access token.
    secret: bool,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("bytes", &self.bytes.len())
            .field("secret", &self.secret)
            .finish()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.secret {
            self.bytes.zeroize();
        }
    }
}

impl Body {
    /// Nothing yet, with room for so many bytes: a body that grows leaves copies behind.
    pub(super) fn with_capacity(bytes: usize, secret: bool) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            secret,
        }
    }

    /// Adds what came next; false, and nothing is added, when it would be more than `limit`.
    pub(super) fn add(&mut self, chunk: &[u8], limit: usize) -> bool {
        let fits = self.bytes.len() + chunk.len() <= limit;
        if fits {
            self.bytes.extend_from_slice(chunk);
        }
        fits
    }

    fn text(&self) -> &[u8] {
        self.bytes
            .strip_prefix(b"\xEF\xBB\xBF")
            .unwrap_or(&self.bytes)
    }

    /// All of it; null when it is not JSON. The depth is bounded by the parser (128 levels), the
    /// length by the body's limit.
    pub fn tree(&self) -> Option<Value> {
        serde_json::from_slice(self.text()).ok()
    }

    /// The members that `T` names, without a tree of all the others. Null says nothing: only the
    /// tree tells what is wrong.
    ///
    /// It is exactly what would be read from the tree, and only where there would be one that is an
    /// object: what serde leaves out is looked at, too.
    pub fn members<T: DeserializeOwned>(&self) -> Option<T> {
        let text = self.text();
        match serde_json::from_slice(text) {
            Ok(Seen::Object) => serde_json::from_slice(text).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
impl From<&Value> for Body {
    fn from(tree: &Value) -> Self {
        Self::from(tree.to_string().as_str())
    }
}

#[cfg(test)]
impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_vec(),
            secret: false,
        }
    }
}

/// JSON of which a tree could be made, without making it.
enum Seen {
    Object,
    Other,
}

/// Names by which serde_json tells its own types from objects.
const PRIVATE: &str = "$serde_json::private::";

struct Looking;

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Looking)
    }
}

impl<'de> Visitor<'de> for Looking {
    type Value = Seen;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen, A::Error> {
        while items.next_element::<Seen>()?.is_some() {}
        Ok(Seen::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Seen, A::Error> {
        while members.next_key::<Name>()?.is_some() {
            members.next_value::<Seen>()?;
        }
        Ok(Seen::Object)
    }
}

/// A member's name, looked at and forgotten.
struct Name;

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl de::Visitor<'_> for Reading {
            type Value = Name;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
                if name.starts_with(PRIVATE) {
                    return Err(E::custom("a name of serde_json's own"));
                }
                Ok(Name)
            }
        }
        deserializer.deserialize_str(Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        a: Vec<u8>,
        #[serde(default)]
        b: Option<String>,
    }

    fn members(text: &str) -> Option<Named> {
        Body::from(text).members()
    }

    #[test]
    fn members_are_read_and_others_left_out() {
        let found = members("\u{FEFF}{\"a\":[1,2],\"c\":{\"d\":[null,1.5,-1,true,\"x\\n\"]}}");
        assert_eq!(found.unwrap().a, [1, 2]);
    }

    #[test]
    fn what_gives_no_tree_gives_no_members() {
        let deep = |levels| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!("{{\"a\":[1],\"c\":{open}{close}}}")
        };
        assert!(members(&deep(100)).is_some());
        for text in [
            &deep(127),
            &deep(5000),
            "{\"a\":[1],\"c\":\"\\ud800\"}",
            "{\"a\":[1],\"c\":1e999}",
            "{\"a\":[1],\"c\":}",
            "{\"a\":[1]} {}",
            "{\"a\":[1]",
            "",
        ] {
            assert!(Body::from(text).tree().is_none(), "{text}");
            assert!(members(text).is_none(), "{text}");
        }
        let mut body = Body::from("{\"a\":[1],\"c\":\"?\"}");
        let at = body.bytes.iter().position(|b| *b == b'?').unwrap();
        body.bytes[at] = 0xFF;
        assert!(body.tree().is_none() && body.members::<Named>().is_none());
    }

    #[test]
    fn only_objects_have_members() {
        assert!(members("[[1],\"b\"]").is_none());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(Body::from(deep.as_str()).tree(), None);
        assert_eq!(Body::from("\u{FEFF}{}").tree(), Some(json!({})));
    }

    #[test]
    fn more_than_the_limit_is_not_taken() {
        let mut body = Body::with_capacity(4, true);
        assert!(body.add(b"ab", 3));
        assert!(!body.add(b"cd", 3));
        assert!(body.add(b"c", 3));
        assert_eq!(body.text(), b"abc");
        assert!(!format!("{body:?}").contains("abc"));
    }

    fn json_like() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1e999".to_owned()),
            Just("-0.5".to_owned()),
            Just("\"\\ud800\"".to_owned()),
            "[0-9]{1,3}",
            "\"[a-c]{0,2}\"",
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let member = ("[abc$]", inner.clone());
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                proptest::collection::vec(member, 0..4).prop_map(|members| {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(k, v)| format!("\"{k}\":{v}"))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn members_are_those_of_the_tree(text in json_like()) {
            let body = Body::from(text.as_str());
            if let Some(found) = body.members::<Named>() {
                let tree = body.tree().unwrap();
                prop_assert!(tree.is_object());
                prop_assert_eq!(serde_json::from_value::<Named>(tree).unwrap(), found);
            }
        }

        #[test]
        fn where_there_is_a_tree_there_are_members(text in json_like()) {
            let body = Body::from(format!("{{\"a\":[1],\"c\":{text}}}").as_str());
            prop_assert_eq!(body.members::<Named>().is_some(), body.tree().is_some());
        }
    }
}
