//! Hints: versioned JSON that names a run.
//!
//! The schema is published as `contracts/job.v1.schema.json`. A hint carries no data: everything but the
//! run's id is read from the database.

use super::ids::RunId;
use super::request::kind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Payloads larger than this (bytes) are refused unread.
pub const MAX_PAYLOAD_BYTES: usize = 4096;

/// Version of the payload that this build writes and reads.
const PAYLOAD_VERSION: u32 = 1;

/// The hint that a producer sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Version of this payload: 1.
    pub v: u32,
    pub operation_run_id: RunId,
    /// W3C `traceparent` of the request that recorded the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// W3C `tracestate` of the same request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// Why a payload is not a hint. Never quotes the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    #[error("the payload has {0} bytes, allowed: at most {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
    #[error("the payload is not one JSON object (line {line}, column {column})")]
    NoObject { line: usize, column: usize },
    #[error("{member} is {found}, allowed: {allowed}")]
    Member {
        member: &'static str,
        found: &'static str,
        allowed: &'static str,
    },
    #[error(
        "a member is not known or is there twice (line {line}, column {column}), allowed: v, \
         operation_run_id, traceparent, tracestate"
    )]
    UnknownMember { line: usize, column: usize },
    #[error("v is {0}, allowed: {PAYLOAD_VERSION}")]
    Version(u32),
    #[error("operation_run_id is {0}, allowed: a positive integer")]
    RunId(i64),
    #[error("traceparent is not a W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>)")]
    Traceparent,
}

impl Hint {
    /// A hint for this run, without trace context.
    pub fn new(run: RunId) -> Self {
        Self {
            v: PAYLOAD_VERSION,
            operation_run_id: run,
            traceparent: None,
            tracestate: None,
        }
    }

    /// The bytes that go through the queue.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of numbers and strings always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a payload that anyone may have written.
    pub fn decode(payload: &[u8]) -> Result<Self, HintError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(HintError::TooLarge(payload.len()));
        }
        let hint: Self = serde_json::from_slice(payload)
            .map_err(|error| HintError::of_unreadable(payload, &error))?;
        if hint.v != PAYLOAD_VERSION {
            return Err(HintError::Version(hint.v));
        }
        if hint.operation_run_id.0 <= 0 {
            return Err(HintError::RunId(hint.operation_run_id.0));
        }
        if hint
            .traceparent
            .as_deref()
            .is_some_and(|t| !is_traceparent(t))
        {
            return Err(HintError::Traceparent);
        }
        Ok(hint)
    }
}

impl HintError {
    /// Finds what is wrong with a payload that cannot be read as a hint.
    fn of_unreadable(payload: &[u8], error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let Ok(members) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(payload) else {
            return Self::NoObject { line, column };
        };
        let rules: [(&str, &str, Fits); 4] = [
            ("v", "1", reads::<u32>),
            (
                "operation_run_id",
                "a positive integer without fraction or exponent",
                reads::<RunId>,
            ),
            ("traceparent", "a text", reads::<Option<String>>),
            ("tracestate", "a text", reads::<Option<String>>),
        ];
        for (member, allowed, fits) in rules {
            let found = members.get(member).copied().map(RawValue::get);
            if !fits(found.unwrap_or("null")) {
                return Self::Member {
                    member,
                    found: found.map_or("missing", kind),
                    allowed,
                };
            }
        }
        Self::UnknownMember { line, column }
    }
}

/// Whether this JSON is what the member holds.
type Fits = fn(&str) -> bool;

fn reads<T: DeserializeOwned>(json: &str) -> bool {
    serde_json::from_str::<T>(json).is_ok()
}

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |s: &str, n: usize| {
        s.len() == n
            && s.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let &[version, trace, span, flags, ref more @ ..] = parts.as_slice() else {
        return false;
    };
    // Later versions may have more parts.
    let is_whole = more.is_empty() || version != "00";
    let is_visible = |part: &&str| part.bytes().all(|byte| byte.is_ascii_graphic());
    is_whole
        && more.iter().all(is_visible)
        && hex(version, 2)
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_the_round_trip() {
        let mut hint = Hint::new(RunId(7));
        hint.traceparent = Some(format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)));
        assert_eq!(Hint::decode(&hint.encode()), Ok(hint));
    }

    #[test]
    fn what_is_no_hint_is_named() {
        assert_eq!(
            Hint::decode(br#"{"v":2,"operation_run_id":1}"#),
            Err(HintError::Version(2))
        );
        assert_eq!(
            Hint::decode(br#"{"v":1,"operation_run_id":0}"#),
            Err(HintError::RunId(0))
        );
        for (payload, said) in [
            (r#"{"v":1"#, "the payload is not one JSON object (line 1"),
            ("[1]", "the payload is not one JSON object (line 1"),
            ("{}", "v is missing, allowed: 1"),
            (
                r#"{"v":"1","operation_run_id":1}"#,
                "v is a text, allowed: 1",
            ),
            (
                r#"{"v":1,"operation_run_id":"29"}"#,
                "operation_run_id is a text, allowed: a positive integer without fraction or exponent",
            ),
            (
                r#"{"v":1,"operation_run_id":1.0}"#,
                "operation_run_id is a number, allowed: a positive integer without fraction or exponent",
            ),
            (
                r#"{"v":1,"operation_run_id":1,"traceparent":{}}"#,
                "traceparent is an object, allowed: a text",
            ),
            (
                r#"{"v":1,"operation_run_id":1,"run":5}"#,
                "a member is not known or is there twice (line 1",
            ),
            (
                r#"{"v":1,"v":1,"operation_run_id":1}"#,
                "a member is not known or is there twice (line 1",
            ),
        ] {
            let error = Hint::decode(payload.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(said), "{payload}: {error}");
        }
        assert!(matches!(
            Hint::decode(&vec![b' '; MAX_PAYLOAD_BYTES + 1]),
            Err(HintError::TooLarge(_))
        ));
        assert_eq!(
            Hint::decode(br#"{"v":1,"operation_run_id":1,"traceparent":"x"}"#),
            Err(HintError::Traceparent)
        );
    }
}
