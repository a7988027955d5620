//! Reading some members of JSON without making a tree of all the others.
//!
//! What is read is exactly what would be read from the tree, and it is read only where there would be
//! one: members that are left out are looked at, too, which serde does not do by itself. Where it
//! fails nothing is said; only the tree tells what is wrong.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// `T`, read at once.
pub(super) struct AtOnce<T>(pub T);

/// How an object is read at once into a struct: its members' names, and after the semicolon those that
/// may be missing. As in a tree, the last of several members of a name counts.
macro_rules! at_once {
    (
        $type:ty, $make:path {
            $($member:ident: $name:literal),+ $(; $($optional:ident: $other:literal),+)?
        } $(for $param:ident)?
    ) => {
        impl<'de $(, $param)?> serde::Deserialize<'de> for $crate::provider::microsoft::graph::skim::AtOnce<$type>
        $(where $crate::provider::microsoft::graph::skim::AtOnce<$param>: serde::Deserialize<'de>)?
        {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                use $crate::provider::microsoft::graph::skim::{AtOnce, Name, Seen};
                struct Reading<T>(std::marker::PhantomData<T>);
                impl<'de $(, $param)?> serde::de::Visitor<'de> for Reading<$type>
                $(where AtOnce<$param>: serde::Deserialize<'de>)?
                {
                    type Value = AtOnce<$type>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut members: A,
                    ) -> Result<Self::Value, A::Error> {
                        $(let mut $member = None;)+
                        $($(let mut $optional = None;)+)?
                        let names = Name(&[$($name),+ $($(, $other)+)?]);
                        while let Some(name) = members.next_key_seed(names)? {
                            match name {
                                $(Some($name) => $member = Some(members.next_value()?),)+
                                $($(Some($other) => $optional = members.next_value()?,)+)?
                                _ => {
                                    members.next_value::<Seen>()?;
                                }
                            }
                        }
                        let missing = <A::Error as serde::de::Error>::missing_field;
                        Ok(AtOnce($make(
                            $($member.ok_or_else(|| missing($name))?,)+
                            $($($optional,)+)?
                        )))
                    }
                }
                from.deserialize_map(Reading::<$type>(std::marker::PhantomData))
            }
        }
    };
}
pub(super) use at_once;

/// Names by which serde_json tells its own types from objects.
const PRIVATE: &str = "$serde_json::private::";

/// Which of these a member's name is.
#[derive(Clone, Copy)]
pub(super) struct Name(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        if name.starts_with(PRIVATE) {
            return Err(E::custom("a name of serde_json's own"));
        }
        Ok(self.0.iter().find(|known| **known == name).copied())
    }
}

/// JSON of which a tree could be made, looked at and forgotten.
pub(super) struct Seen;

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Seen {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_key_seed(Name(&[]))?.is_some() {
            members.next_value::<Self>()?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::microsoft::http::Body;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        a: Vec<u8>,
        #[serde(default)]
        b: Option<String>,
    }

    fn named(a: Vec<u8>, b: Option<String>) -> Named {
        Named { a, b }
    }
    at_once!(Named, named { a: "a"; b: "b" });

    fn read(text: &str) -> Option<Named> {
        Body::from(text).read().map(|AtOnce::<Named>(named)| named)
    }

    #[test]
    fn members_are_read_and_others_left_out() {
        let text = "\u{FEFF}{\"a\":[1,2],\"c\":{\"d\":[null,1.5,-1,true,\"x\\n\"]},\"b\":\"x\"}";
        assert_eq!(read(text), Some(named(vec![1, 2], Some("x".to_owned()))));
        let again = "{\"a\":[1],\"b\":\"x\",\"a\":[2],\"b\":null}";
        assert_eq!(read(again), Some(named(vec![2], None)));
        assert_eq!(read("{\"b\":\"x\"}"), None);
    }

    #[test]
    fn what_gives_no_tree_is_not_read() {
        let deep = |levels| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!("{{\"a\":[1],\"c\":{open}{close}}}")
        };
        assert!(read(&deep(100)).is_some());
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
            assert!(read(text).is_none(), "{text}");
        }
        let body = Body::from(&b"{\"a\":[1],\"c\":\"\xFF\"}"[..]);
        assert!(body.tree().is_none() && body.read::<AtOnce<Named>>().is_none());
    }

    #[test]
    fn only_objects_have_members() {
        assert!(read("[[1],\"b\"]").is_none());
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
            if let Some(found) = read(&text) {
                let tree = Body::from(text.as_str()).tree().unwrap();
                prop_assert!(tree.is_object());
                prop_assert_eq!(serde_json::from_value::<Named>(tree).unwrap(), found);
            }
        }

        #[test]
        fn where_there_is_a_tree_there_are_members(text in json_like()) {
            let text = format!("{{\"a\":[1],\"c\":{text}}}");
            prop_assert_eq!(read(&text).is_some(), Body::from(text.as_str()).tree().is_some());
        }
    }
}
