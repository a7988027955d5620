//! The request of a producer: `operation_runs.context`, read without trust.
//!
//! The text is parsed member by member, and only the members that a check needs are kept. Other members may
//! have any depth, size and number.

use super::ids::ConnectionId;
use super::trace_parent::TraceParent;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// Longest name that a producer gives, in bytes (provider, module, Entra tenant id).
const NAME_BYTES: usize = 300;

/// What is allowed as the id of a connection. Lists and the index on `provider_connection_id` compare its text, so
/// `1.0` or `"01"` would be another id than `1`. A number below 1 is the id of no connection.
const ONE_SPELLING: &str = "a whole number of 64 bits, as a text from 1 on: 1, not 1.0 or 01";

/// What is allowed where a context has a member twice. Only SQLite stores both: its functions take the first one, other
/// readers the last.
const ONCE: &str = "this member once";

/// Longest name of a tenant that is kept, in characters.
const DISPLAY_NAME_CHARS: usize = 300;

/// Why nothing of a context can be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextProblem {
    /// More bytes than `limits.context_bytes`; it was not read.
    TooLarge {
        limit: u64,
        /// It is so large that the completion leaves it out.
        dropped: bool,
    },
    /// The database could not show it, or it is no JSON that can be read.
    Unreadable,
    /// JSON of another type, in words.
    NotAnObject(&'static str),
    /// A JSON text that holds JSON.
    EncodedTwice,
}

impl ContextProblem {
    /// Returns what was found, without quoting a value.
    pub fn found(&self) -> String {
        match self {
            Self::TooLarge {
                limit,
                dropped: false,
            } => format!("more than {limit} bytes, as the database writes it"),
            Self::TooLarge {
                limit,
                dropped: true,
            } => {
                format!("more than {limit} bytes, so many that it was removed from the run")
            }
            Self::Unreadable => "JSON that cannot be read: too deep, or a broken text".to_owned(),
            Self::NotAnObject(kind) => format!("{kind}, an object is needed"),
            Self::EncodedTwice => "a JSON text, an object is needed: encoded twice?".to_owned(),
        }
    }

    /// Returns what is allowed.
    pub fn allowed(&self) -> String {
        match self {
            Self::TooLarge { limit, .. } => format!("at most {limit} bytes (limits.context_bytes)"),
            _ => "a JSON object".to_owned(),
        }
    }
}

/// The members of `context` that a check needs. Every member is optional here: preflight names what is
/// missing or of the wrong type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    pub provider: Option<String>,
    pub module: Option<String>,
    pub provider_connection_id: Option<ConnectionId>,
    pub target_scope: Option<TargetScope>,
    /// The span that recorded the run. One that cannot be read counts as absent: no check depends on it.
    pub traceparent: Option<TraceParent>,
    /// Members of the wrong type, and those that are there twice: (path, what is allowed).
    pub malformed: Vec<(&'static str, &'static str)>,
    /// Set when nothing of the context could be read.
    pub problem: Option<ContextProblem>,
}

/// `context.target_scope`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TargetScope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entra_tenant_id: Option<String>,
    /// Only shown; a value of another type counts as absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entra_tenant_name: Option<String>,
}

type Malformed = Vec<(&'static str, &'static str)>;

/// A member as it is written.
#[derive(Clone, Copy, Default)]
enum Member<'a> {
    #[default]
    Absent,
    Once(&'a RawValue),
    Twice,
}

impl<'a> Member<'a> {
    fn once(self) -> Option<&'a str> {
        match self {
            Self::Once(json) => Some(json.get()),
            Self::Absent | Self::Twice => None,
        }
    }

    /// Returns the JSON and its type, unless that is null. Names a member that is there twice.
    fn read(
        self,
        path: &'static str,
        malformed: &mut Malformed,
    ) -> Option<(&'a str, &'static str)> {
        if let Self::Twice = self {
            malformed.push((path, ONCE));
        }
        let json = self.once()?;
        Some((json, kind(json))).filter(|(_, kind)| *kind != "null")
    }
}

/// The members that are looked at.
#[derive(Default)]
struct Members<'a> {
    provider: Member<'a>,
    module: Member<'a>,
    provider_connection_id: Member<'a>,
    target_scope: Member<'a>,
    traceparent: Member<'a>,
    entra_tenant_id: Member<'a>,
    entra_tenant_name: Member<'a>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Known;
        impl<'de> Visitor<'de> for Known {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    let place = match name.as_str() {
                        "provider" => &mut members.provider,
                        "module" => &mut members.module,
                        "provider_connection_id" => &mut members.provider_connection_id,
                        "target_scope" => &mut members.target_scope,
                        "traceparent" => &mut members.traceparent,
                        "entra_tenant_id" => &mut members.entra_tenant_id,
                        "entra_tenant_name" => &mut members.entra_tenant_name,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let json = map.next_value()?;
                    *place = match *place {
                        Member::Absent => Member::Once(json),
                        Member::Once(_) | Member::Twice => Member::Twice,
                    };
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Known)
    }
}

/// The type of a JSON value, by how it begins.
pub(super) fn kind(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "nothing",
    }
}

impl RunRequest {
    /// Reads the text of a context; never fails.
    pub fn from_json(text: &str) -> Self {
        let text = text.trim_start();
        let problem = match kind(text) {
            "an object" => match serde_json::from_str::<Members<'_>>(text) {
                Ok(members) => return Self::from_members(&members),
                Err(_) => ContextProblem::Unreadable,
            },
            "a text" => match serde_json::from_str::<String>(text) {
                Ok(inner) if matches!(kind(&inner), "an object" | "an array" | "a text") => {
                    ContextProblem::EncodedTwice
                }
                _ => ContextProblem::NotAnObject("a text"),
            },
            "nothing" => ContextProblem::Unreadable,
            other => ContextProblem::NotAnObject(other),
        };
        Self::unreadable(problem)
    }

    /// Reads a context that is parsed already.
    pub fn from_context(context: &Value) -> Self {
        Self::from_json(&context.to_string())
    }

    /// A request of which nothing is known.
    pub fn unreadable(problem: ContextProblem) -> Self {
        Self {
            problem: Some(problem),
            ..Self::default()
        }
    }

    fn from_members(members: &Members<'_>) -> Self {
        let mut malformed = Malformed::new();
        let provider = text(members.provider, "context.provider", &mut malformed);
        let module = text(members.module, "context.module", &mut malformed);
        let scope = members
            .target_scope
            .read("context.target_scope", &mut malformed);
        let target_scope = match scope {
            None => None,
            Some((scope, "an object")) => match serde_json::from_str::<Members<'_>>(scope) {
                Ok(Members {
                    entra_tenant_id: Member::Twice,
                    ..
                }) => {
                    malformed.push(("context.target_scope", "an object with one entra_tenant_id"));
                    None
                }
                Ok(scope) => Some(TargetScope {
                    entra_tenant_id: text(
                        scope.entra_tenant_id,
                        "context.target_scope.entra_tenant_id",
                        &mut malformed,
                    ),
                    entra_tenant_name: display_name(scope.entra_tenant_name),
                }),
                Err(_) => {
                    malformed.push(("context.target_scope", "an object that can be read"));
                    None
                }
            },
            Some(_) => {
                malformed.push(("context.target_scope", "an object"));
                None
            }
        };
        let provider_connection_id = connection_id(members.provider_connection_id, &mut malformed);
        Self {
            provider,
            module,
            provider_connection_id,
            target_scope,
            traceparent: trace_parent(members.traceparent),
            malformed,
            problem: None,
        }
    }
}

fn text(member: Member<'_>, path: &'static str, malformed: &mut Malformed) -> Option<String> {
    let allowed = match member.read(path, malformed)? {
        (json, "a text") => match serde_json::from_str::<String>(json) {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) if text.len() <= NAME_BYTES => return Some(text),
            Ok(_) => "a text of at most 300 bytes",
            Err(_) => "a text of Unicode characters",
        },
        _ => "a text",
    };
    malformed.push((path, allowed));
    None
}

fn connection_id(member: Member<'_>, malformed: &mut Malformed) -> Option<ConnectionId> {
    let path = "context.provider_connection_id";
    let id: Option<ConnectionId> = match member.read(path, malformed)? {
        (json, "a text") => serde_json::from_str::<String>(json)
            .ok()
            .and_then(|id| id.parse().ok()),
        (json, _) => serde_json::from_str(json).ok(),
    };
    if id.is_none() {
        malformed.push((path, ONE_SPELLING));
    }
    id
}

fn trace_parent(member: Member<'_>) -> Option<TraceParent> {
    let text: String = serde_json::from_str(member.once()?).ok()?;
    TraceParent::parse(&text)
}

/// A name for people: cut, and absent where it is none.
fn display_name(member: Member<'_>) -> Option<String> {
    let name: String = serde_json::from_str(member.once()?).ok()?;
    (!name.trim().is_empty()).then(|| name.chars().take(DISPLAY_NAME_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const GUID: &str = "8f14e45f-ceea-4e7b-8f5c-0d3c0c5b7a11";

    fn problem(text: &str) -> Option<ContextProblem> {
        RunRequest::from_json(text).problem
    }

    #[test]
    fn a_context_that_is_no_object_is_named() {
        let twice = json!(json!({"provider": "microsoft"}).to_string()).to_string();
        assert_eq!(problem(&twice), Some(ContextProblem::EncodedTwice));
        let thrice = json!(twice).to_string();
        assert_eq!(problem(&thrice), Some(ContextProblem::EncodedTwice));
        for (text, kind) in [
            ("[]", "an array"),
            ("\"x\"", "a text"),
            ("12", "a number"),
            ("-1e400", "a number"),
            ("true", "a boolean"),
            ("null", "null"),
        ] {
            assert_eq!(
                problem(text),
                Some(ContextProblem::NotAnObject(kind)),
                "{text}"
            );
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            problem(&deep),
            Some(ContextProblem::NotAnObject("an array"))
        );
        for text in ["", "{", "{\"a\":}", r#"{"\ud800":1}"#] {
            assert_eq!(problem(text), Some(ContextProblem::Unreadable), "{text}");
        }
        assert_eq!(
            ContextProblem::EncodedTwice.found(),
            "a JSON text, an object is needed: encoded twice?"
        );
    }

    #[test]
    fn members_that_nobody_needs_may_be_of_any_depth_and_number() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let text = format!(
            r#"{{"other":{deep},"big":1e400,"half":"\ud800","provider":"microsoft",
                "provider_connection_id":"7","target_scope":{{"x":{deep},"entra_tenant_id":"{GUID}",
                "entra_tenant_name":12}}}}"#
        );
        let request = RunRequest::from_json(&text);
        assert_eq!(request.problem, None);
        assert_eq!(request.malformed, []);
        assert_eq!(request.provider.as_deref(), Some("microsoft"));
        assert_eq!(request.provider_connection_id, Some(ConnectionId(7)));
        let scope = request.target_scope.unwrap();
        assert_eq!(scope.entra_tenant_id.as_deref(), Some(GUID));
        assert_eq!(scope.entra_tenant_name, None);
    }

    #[test]
    fn a_traceparent_that_cannot_be_read_blocks_no_run() {
        let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = RunRequest::from_context(&json!({ "traceparent": sampled }));
        assert_eq!(read.traceparent, TraceParent::parse(sampled));
        assert!(read.traceparent.is_some());
        for other in [
            json!(null),
            json!(1),
            json!({}),
            json!("00-x"),
            json!("x".repeat(9_999)),
        ] {
            let read = RunRequest::from_context(&json!({ "traceparent": other }));
            assert_eq!(read.traceparent, None, "{other}");
            assert_eq!((read.malformed, read.problem), (vec![], None), "{other}");
        }
    }

    #[test]
    fn a_wrong_member_is_named_by_its_path() {
        let long = "x".repeat(NAME_BYTES + 1);
        for (member, value, path) in [
            ("provider", json!(12), "context.provider"),
            ("provider", json!(long), "context.provider"),
            ("module", json!([]), "context.module"),
            ("target_scope", json!("{}"), "context.target_scope"),
            (
                "target_scope",
                json!({"entra_tenant_id": 12}),
                "context.target_scope.entra_tenant_id",
            ),
            (
                "provider_connection_id",
                json!(1.5),
                "context.provider_connection_id",
            ),
            (
                "provider_connection_id",
                json!("9223372036854775808"),
                "context.provider_connection_id",
            ),
        ] {
            let request = RunRequest::from_context(&json!({ member: value }));
            let paths: Vec<&str> = request.malformed.iter().map(|(path, _)| *path).collect();
            assert_eq!(paths, [path], "{member}: {value}");
        }
        for text in [
            "1.0", "1e0", "\"1.0\"", "\"007\"", "\"+7\"", "\" 7\"", "\"-7\"", "\"0\"", "\"\"",
        ] {
            let text = format!(r#"{{"provider_connection_id":{text}}}"#);
            let request = RunRequest::from_json(&text);
            let named = [("context.provider_connection_id", ONE_SPELLING)];
            assert_eq!(request.malformed, named, "{text}");
        }
        let ends = RunRequest::from_json(r#"{"provider_connection_id":-9223372036854775808}"#);
        assert_eq!(ends.provider_connection_id, Some(ConnectionId(i64::MIN)));
    }

    #[test]
    fn a_member_that_is_there_twice_is_named_and_not_chosen() {
        let request = RunRequest::from_json(
            r#"{"provider_connection_id":7,"provider":"microsoft","module":null,"target_scope":{},
                "provider_connection_id":8,"provider":null,"module":"core","target_scope":null,
                "traceparent":"x","traceparent":"x","other":1,"other":2}"#,
        );
        let expected = [
            ("context.provider", ONCE),
            ("context.module", ONCE),
            ("context.target_scope", ONCE),
            ("context.provider_connection_id", ONCE),
        ];
        let read = RunRequest {
            malformed: expected.into(),
            ..RunRequest::default()
        };
        assert_eq!(request, read);
        let scope = r#"{"target_scope":{"entra_tenant_id":"a","entra_tenant_id":"a"}}"#;
        let scope = RunRequest::from_json(scope);
        let named: Vec<&str> = scope.malformed.iter().map(|(path, _)| *path).collect();
        assert_eq!(
            (named, scope.target_scope),
            (vec!["context.target_scope"], None)
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|n| json!(n)),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(
                    prop_oneof![
                        Just("provider".to_owned()),
                        Just("module".to_owned()),
                        Just("provider_connection_id".to_owned()),
                        Just("target_scope".to_owned()),
                        Just("entra_tenant_id".to_owned()),
                        "[a-z]{0,6}",
                    ],
                    inner,
                    0..6
                )
                .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        /// Every member is read, absent, or named; and everything but an object is named.
        #[test]
        fn any_json_is_read_or_named(context in any_json()) {
            let request = RunRequest::from_context(&context);
            prop_assert_eq!(request.problem.is_none(), context.is_object());
            let named = |path| request.malformed.iter().any(|(at, _)| *at == path);
            for (member, path, read) in [
                ("provider", "context.provider", request.provider.is_some()),
                ("module", "context.module", request.module.is_some()),
                ("target_scope", "context.target_scope", request.target_scope.is_some()),
                ("provider_connection_id", "context.provider_connection_id",
                 request.provider_connection_id.is_some()),
            ] {
                let blank = match context.get(member) {
                    None | Some(Value::Null) => true,
                    Some(Value::String(text)) => {
                        member != "provider_connection_id" && member != "target_scope"
                            && text.trim().is_empty()
                    }
                    Some(_) => false,
                };
                prop_assert_eq!(blank, !read && !named(path), "{}", member);
            }
        }
    }
}
