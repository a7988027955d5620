//! contracts/job.v1.schema.json and `Hint::decode` say the same.

use serde_json::Value;
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../contracts/job.v1.schema.json")).unwrap()
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Of a later version, which may have more parts.
const LATER: &str = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Payloads, and whether they are hints.
fn table() -> Vec<(String, bool)> {
    let with = |members: &str| format!(r#"{{"v":1,"operation_run_id":1{members}}}"#);
    vec![
        (with(""), true),
        (r#" { "operation_run_id" : 12 , "v" : 1 } "#.into(), true),
        (
            r#"{"v":1,"operation_run_id":9223372036854775807}"#.into(),
            true,
        ),
        (with(&format!(r#","traceparent":"{TRACE}""#)), true),
        (with(r#","traceparent":null"#), true),
        (with(&format!(r#","traceparent":"{LATER}""#)), true),
        (with(&format!(r#","traceparent":"{LATER}-x-""#)), true),
        (with(r#","tracestate":"a=1,b=2""#), true),
        (with(r#","tracestate":"""#), true),
        (with(r#","tracestate":null"#), true),
        (r#"{"v":1}"#.into(), false),
        (r#"{"operation_run_id":1}"#.into(), false),
        (r#"{"v":0,"operation_run_id":1}"#.into(), false),
        (r#"{"v":2,"operation_run_id":1}"#.into(), false),
        (r#"{"v":-1,"operation_run_id":1}"#.into(), false),
        (r#"{"v":"1","operation_run_id":1}"#.into(), false),
        (r#"{"v":null,"operation_run_id":1}"#.into(), false),
        (r#"{"v":1,"operation_run_id":0}"#.into(), false),
        (r#"{"v":1,"operation_run_id":-5}"#.into(), false),
        (r#"{"v":1,"operation_run_id":"1"}"#.into(), false),
        (r#"{"v":1,"operation_run_id":1.5}"#.into(), false),
        (r#"{"v":1,"operation_run_id":null}"#.into(), false),
        (r#"{"v":1,"operation_run_id":[1]}"#.into(), false),
        (
            r#"{"v":1,"operation_run_id":9223372036854775808}"#.into(),
            false,
        ),
        (with(r#","tenant_id":3"#), false),
        (with(r#","traceparent":"""#), false),
        (with(r#","traceparent":"00-x-y-01""#), false),
        (
            with(&format!(r#","traceparent":"{}""#, TRACE.to_uppercase())),
            false,
        ),
        (with(&format!(r#","traceparent":"{TRACE}\n""#)), false),
        (with(&format!(r#","traceparent":"{TRACE}-00""#)), false),
        (with(&format!(r#","traceparent":"{LATER}x""#)), false),
        (with(&format!(r#","traceparent":"{LATER}-ü""#)), false),
        (with(r#","traceparent":1"#), false),
        (with(r#","tracestate":{}"#), false),
        ("[]".into(), false),
        ("1".into(), false),
        ("null".into(), false),
        (r#"[{"v":1,"operation_run_id":1}]"#.into(), false),
    ]
}

#[test]
fn schema_and_decoder_agree() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for (payload, is_hint) in table() {
        let value: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(validator.is_valid(&value), is_hint, "schema: {payload}");
        assert_eq!(
            Hint::decode(payload.as_bytes()).is_ok(),
            is_hint,
            "decoder: {payload}"
        );
    }
}

#[test]
fn the_schema_is_a_proper_one_and_its_examples_are_hints() {
    let schema = schema();
    assert!(jsonschema::draft202012::meta::is_valid(&schema));
    let examples = schema["examples"].as_array().unwrap();
    assert!(!examples.is_empty());
    for example in examples {
        let payload = serde_json::to_vec(example).unwrap();
        assert!(Hint::decode(&payload).is_ok(), "{example}");
    }
}

#[test]
fn what_verifyd_sends_is_valid() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let mut hint = Hint::new(RunId(i64::MAX));
    for _ in 0..2 {
        let value: Value = serde_json::from_slice(&hint.encode()).unwrap();
        assert!(validator.is_valid(&value), "{value}");
        hint.traceparent = Some(TRACE.into());
        hint.tracestate = Some("a=1".into());
    }
}

/// What no schema can say.
#[test]
fn the_decoder_also_refuses_what_only_a_parser_sees() {
    for payload in [
        &br#"{"v":1,"operation_run_id":1,"operation_run_id":2}"#[..],
        br#"{"v":1,"operation_run_id":1.0}"#,
        br#"{"v":1,"operation_run_id":1} x"#,
        b"",
        b"\xff",
    ] {
        assert!(Hint::decode(payload).is_err(), "{payload:?}");
    }
    let mut large = br#"{"v":1,"operation_run_id":1}"#.to_vec();
    large.resize(4097, b' ');
    assert!(Hint::decode(&large).is_err());
    large.truncate(4096);
    assert!(Hint::decode(&large).is_ok());
}
