//! Hints: versioned JSON that names a run.
//!
//! The schema is published as `contracts/job.v1.schema.json`. A hint carries no data: everything but the
//! run's id is read from the database.

use super::ids::RunId;
use serde::{Deserialize, Serialize};

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
    #[error(
        "the payload is not a JSON object with v and operation_run_id (line {line}, column {column})"
    )]
    Malformed { line: usize, column: usize },
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
        let hint: Self = serde_json::from_slice(payload).map_err(|e| HintError::Malformed {
            line: e.line(),
            column: e.column(),
        })?;
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

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |s: &str, n: usize| {
        s.len() == n
            && s.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    parts.len() == 4
        && hex(parts[0], 2)
        && hex(parts[1], 32)
        && hex(parts[2], 16)
        && hex(parts[3], 2)
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
        assert!(matches!(
            Hint::decode(b"{}"),
            Err(HintError::Malformed { .. })
        ));
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
