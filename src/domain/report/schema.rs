//! Validates a document as verification report v1.5.

use super::{Check, Report, SCHEMA_VERSION, limits};
use crate::domain::json::{self, Json};
use aws_lc_rs::digest;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::LazyLock;

/// The published schema.
pub const SCHEMA: &str = include_str!("../../../contracts/verification-report.v1_5.schema.json");

/// Largest number of problems that are named.
const MAX_PROBLEMS: usize = 20;

#[expect(
    clippy::expect_used,
    reason = "the schema is part of the program; tests compile it"
)]
static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the published schema is JSON");
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the published schema compiles")
});

/// Validates against the schema and the rules that a schema cannot express: unique keys, consistent counts,
/// the right verdict and a time in UTC. The problems name paths and rules, never values.
pub fn validate(document: &Value) -> Result<(), Vec<String>> {
    schema_allows(document)?;
    let report = Report::deserialize(document)
        .map_err(|e| vec![format!("/: not a report of this version: {e}")])?;
    adds_up(&report)
}

/// Reads the text of a document that is valid, as [`validate`] has it, and repeats no member. Another application may have
/// written it: as a tree takes a hundred times the memory of its text, each check is parsed by itself, and only if it has
/// no more values than a check can have. The problems are those of the first part that has any.
pub fn read(json: &str) -> Result<Report, Vec<String>> {
    bound(json, "/", MAX_VALUES)?;
    let checks: Vec<&RawValue> = json::member(json, "checks")
        .and_then(|checks| serde_json::from_str(checks).ok())
        .unwrap_or_default();
    if checks.is_empty() {
        // Not allowed: this names the problem.
        schema_allows(&part(json, "/", MAX_OTHER_VALUES)?)?;
    } else if checks.len() > limits::CHECKS {
        return Err(vec![format!("/checks: more than {}", limits::CHECKS)]);
    }
    let others = json::with_member(&Json::of(json), "checks", &Json::default());
    let mut document = part(others.text(), "/", MAX_OTHER_VALUES)?;
    for (i, check) in checks.iter().enumerate() {
        let at = format!("/checks/{i}");
        document["checks"] = json!([part(check.get(), &at, MAX_CHECK_VALUES)?]);
        schema_allows(&document).map_err(|problems| {
            let problems = problems.into_iter();
            let of_check = problems.map(|problem| match problem.strip_prefix("/checks/0") {
                Some(problem) => format!("{at}{problem}"),
                None => problem,
            });
            of_check.collect::<Vec<_>>()
        })?;
    }
    // Of repeated members a tree has the last one, and lists read the first one. A struct refuses them; its error may
    // quote a value.
    let report: Report = serde_json::from_str(json).map_err(|_| {
        vec!["/: repeats a member, or has a number that is no 64-bit integer".to_owned()]
    })?;
    adds_up(&report)?;
    Ok(report)
}

/// Most values of a check that the limits of a report allow, by members that are written once, and its brackets.
const MAX_CHECK_VALUES: usize = 12 + 3 * limits::EVIDENCE_ITEMS + 3 * limits::NEXT_STEPS;

/// Most values of the members beside the checks, and some.
const MAX_OTHER_VALUES: usize = 100;

/// Most values of a report.
const MAX_VALUES: usize = limits::CHECKS * MAX_CHECK_VALUES + MAX_OTHER_VALUES;

/// Parses a part of a report that has at most so many values.
fn part(json: &str, at: &str, most: usize) -> Result<Value, Vec<String>> {
    bound(json, at, most)?;
    serde_json::from_str(json).map_err(|_| vec![format!("{at}: not JSON that can be read")])
}

fn bound(json: &str, at: &str, most: usize) -> Result<(), Vec<String>> {
    match json::values(json) > most {
        true => Err(vec![format!("{at}: more than {most} values")]),
        false => Ok(()),
    }
}

/// Validates a report that was just built, with its JSON.
///
/// Most reports differ from the previous one only in their time and their previous report. These two members
/// are validated separately, and the rest is not validated again if the schema has allowed it before.
pub(super) fn validate_built(report: &Report, json: &str) -> Result<(), Vec<String>> {
    adds_up(report)?;
    let rest = rest_of(report, json);
    if rest.is_some_and(|rest| ALLOWED.lock().contains(&rest)) {
        return Ok(());
    }
    let document = serde_json::from_str(json).map_err(|e| vec![format!("/: not JSON: {e}")])?;
    schema_allows(&document)?;
    if let Some(rest) = rest {
        let mut allowed = ALLOWED.lock();
        if allowed.len() >= MAX_ALLOWED {
            allowed.clear();
        }
        allowed.insert(rest);
    }
    Ok(())
}

/// Largest number of remembered digests, of 32 bytes each; after that the set is emptied.
const MAX_ALLOWED: usize = 16_384;

/// SHA-256 of what the schema has allowed, without time and previous report.
static ALLOWED: LazyLock<Mutex<HashSet<[u8; 32]>>> = LazyLock::new(Mutex::default);

/// Returns the SHA-256 of the JSON without the values of `generated_at` and `previous_report_id`; `None`
/// unless the schema allows these two.
fn rest_of(report: &Report, json: &str) -> Option<[u8; 32]> {
    if !is_utc_in_milliseconds(&report.generated_at)
        || report.previous_report_id.is_some_and(|id| id.0 < 1)
    {
        return None;
    }
    // In this order. Inside of a text the quotes would be escaped, so no text is taken for a member.
    let (before, json) = json.split_once(r#""generated_at":""#)?;
    let (between, json) = json
        .strip_prefix(report.generated_at.as_str())?
        .split_once(r#""previous_report_id":"#)?;
    let previous = report.previous_report_id.map(|id| id.0.to_string());
    let after = json.strip_prefix(previous.as_deref().unwrap_or("null"))?;
    let mut rest = digest::Context::new(&digest::SHA256);
    for part in [before, between, after] {
        rest.update(&(part.len() as u64).to_le_bytes());
        rest.update(part.as_bytes());
    }
    rest.finish().as_ref().try_into().ok()
}

/// `2026-11-25T04:05:06.789Z`: of the forms that the schema allows, the one that reports are given.
fn is_utc_in_milliseconds(time: &str) -> bool {
    const FORM: &[u8; 24] = b"0000-00-00T00:00:00.000Z";
    time.len() == FORM.len()
        && time.bytes().zip(FORM).all(|(found, form)| match form {
            b'0' => found.is_ascii_digit(),
            mark => found == *mark,
        })
        && chrono::DateTime::parse_from_rfc3339(time).is_ok()
}

fn schema_allows(document: &Value) -> Result<(), Vec<String>> {
    // Finding all problems takes several times as long as finding that there is none.
    if VALIDATOR.is_valid(document) {
        return Ok(());
    }
    let all = VALIDATOR.iter_errors(document);
    Err(all
        .take(MAX_PROBLEMS)
        .map(|problem| named(&problem))
        .collect())
}

fn named(problem: &jsonschema::ValidationError<'_>) -> String {
    let at = problem.instance_path().to_string();
    let at = if at.is_empty() { "/" } else { &at };
    match problem.kind() {
        jsonschema::error::ValidationErrorKind::Required { property } => {
            format!("{at}: lacks {property}")
        }
        _ => format!("{at}: violates {}", problem.schema_path()),
    }
}

/// Checks the rules that a schema cannot express.
fn adds_up(report: &Report) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    let mut keys = HashSet::with_capacity(report.checks.len());
    for (i, Check { key, .. }) in report.checks.iter().enumerate() {
        if !keys.insert(key.as_str()) {
            problems.push(format!("/checks/{i}/key: occurs twice"));
        }
    }
    if super::summarise(&report.checks) != report.summary {
        problems.push("/summary: does not follow from the checks".into());
    }
    if chrono::DateTime::parse_from_rfc3339(&report.generated_at).is_err() {
        problems.push("/generated_at: not a date and time".into());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Whether the document's fingerprint is the one that its content has. Only for reports of this
/// build's schema version.
pub fn fingerprint_matches(document: &Value) -> Result<bool, serde_json::Error> {
    let report = Report::deserialize(document)?;
    debug_assert!(report.schema_version.starts_with(&SCHEMA_VERSION[..4]));
    Ok(super::fingerprint::fingerprint(
        &report.schema_version,
        &report.flow,
        &report.identity,
        &report.checks,
    )? == report.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunId;

    fn example() -> (Report, String) {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let report = Report::deserialize(&schema["examples"][1]).unwrap();
        let json = serde_json::to_string(&report).unwrap();
        (report, json)
    }

    #[test]
    fn a_rest_that_was_allowed_is_told_from_any_other() {
        let (report, json) = example();
        let rest = rest_of(&report, &json).expect("the example is an ordinary one");
        let later = |id: Option<i64>, time: &str| {
            let mut later = report.clone();
            later.previous_report_id = id.map(RunId);
            later.generated_at = time.to_owned();
            let json = serde_json::to_string(&later).unwrap();
            rest_of(&later, &json)
        };
        assert_eq!(later(None, "2027-01-31T23:59:59.999Z"), Some(rest));
        assert_eq!(
            later(Some(i64::MAX), "2027-01-31T23:59:59.999Z"),
            Some(rest)
        );
        // What the schema says of these two is not passed over.
        for (id, time) in [
            (Some(0), "2027-01-31T23:59:59.999Z"),
            (Some(-1), "2027-01-31T23:59:59.999Z"),
            (None, "2027-01-31T23:59:59.999+00:00"),
            (None, "2027-02-31T23:59:59.999Z"),
            (None, "+12027-01-31T23:59:59.999Z"),
            (None, ""),
        ] {
            assert_eq!(later(id, time), None, "{id:?} {time}");
        }
        let mut other = report.clone();
        other.checks[0].title.push('.');
        let json = serde_json::to_string(&other).unwrap();
        assert_ne!(rest_of(&other, &json), Some(rest));
    }

    #[test]
    fn a_report_of_as_many_values_as_are_allowed_is_read_and_none_of_more() {
        let (report, _) = example();
        let mut document = serde_json::to_value(&report).unwrap();
        let check = document["checks"][0].as_object_mut().unwrap();
        check["evidence"] = vec![json!({"kind": "count", "value": "1"}); 50].into();
        check["next_steps"] = vec![json!({"url": "/runs", "label": "x"}); 10].into();
        let check = check.clone();
        let checks = (0..200).map(|number| {
            let mut check = check.clone();
            check["key"] = format!("a.b{number}").into();
            Value::Object(check)
        });
        document["checks"] = checks.collect();
        let checks = Vec::<Check>::deserialize(&document["checks"]).unwrap();
        document["summary"] = serde_json::to_value(super::super::summarise(&checks)).unwrap();
        let text = document.to_string();
        assert_eq!(read(&text).map(|report| report.checks.len()), Ok(200));

        let objects = |number| vec![json!({"": 0}); number];
        let nested = (0..100).fold(json!(0), |inner, _| json!({ "": inner }));
        document["checks"][0]["evidence"] = objects(MAX_VALUES / 2).into();
        let problems = read(&document.to_string()).unwrap_err();
        assert_eq!(problems, [format!("/: more than {MAX_VALUES} values")]);
        document["checks"][0]["evidence"] = json!([]);
        for more in [
            json!(objects(MAX_CHECK_VALUES / 2)),
            json!([nested, nested]),
        ] {
            let mut document = document.clone();
            document["checks"][1]["evidence"] = more;
            let problems = read(&document.to_string()).unwrap_err();
            let problem = format!("/checks/1: more than {MAX_CHECK_VALUES} values");
            assert_eq!(problems, [problem]);
        }
        let mut other = document.clone();
        other["identity"] = objects(MAX_OTHER_VALUES / 2).into();
        let problems = read(&other.to_string()).unwrap_err();
        assert_eq!(
            problems,
            [format!("/: more than {MAX_OTHER_VALUES} values")]
        );
        let more = document["checks"][1].clone();
        document["checks"].as_array_mut().unwrap().push(more);
        let problems = read(&document.to_string()).unwrap_err();
        assert_eq!(problems, ["/checks: more than 200"]);
    }

    #[test]
    fn a_report_that_repeats_a_member_is_none() {
        let (_, json) = example();
        assert!(read(&json).is_ok());
        for (member, before) in [
            ("checks", "[]"),
            ("summary", r#"{"overall":"secret"}"#),
            ("overall", r#""ready""#),
            ("total", "1"),
            ("key", r#""a.b""#),
            ("status", r#""pass""#),
            ("kind", r#""count""#),
            ("label", r#""x""#),
        ] {
            let member = format!("{member:?}:");
            let repeated = json.replacen(&member, &format!("{member}{before},{member}"), 1);
            assert_ne!(repeated, json, "{member}");
            let problems = read(&repeated).unwrap_err();
            let problem = "/: repeats a member, or has a number that is no 64-bit integer";
            assert_eq!(problems, [problem], "{member}");
        }
    }

    #[test]
    fn a_report_with_a_member_that_cannot_be_read_is_none() {
        let (mut report, _) = example();
        report.previous_report_id = None;
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(read(&json), Ok(report));
        let deep = format!("{}{}", "[".repeat(150), "]".repeat(150));
        for (member, right, wrong, at) in [
            ("previous_report_id", "null", "1e400", "/"),
            ("evidence", "[]", deep.as_str(), "/checks/0"),
        ] {
            let right = format!("{member:?}:{right}");
            let other = json.replacen(&right, &format!("{member:?}:{wrong}"), 1);
            assert_ne!(other, json, "{member}");
            let problems = read(&other).unwrap_err();
            assert_eq!(problems, [format!("{at}: not JSON that can be read")]);
        }
    }

    #[test]
    fn the_problems_of_the_first_wrong_check_are_named() {
        let (report, _) = example();
        let mut document = serde_json::to_value(&report).unwrap();
        let right = document["checks"][0].clone();
        let mut wrong = right.clone();
        wrong["evidence"] = vec![json!({"": 0}); 2].into();
        document["checks"] = json!([right, wrong, wrong]);
        let problems = read(&document.to_string()).unwrap_err();
        assert!(problems.len() > 1, "{problems:?}");
        for problem in &problems {
            assert!(problem.starts_with("/checks/1/evidence/"), "{problems:?}");
        }
        for (checks, problem) in [
            (json!(null), "/checks: violates /properties/checks/type"),
            (json!([]), "/checks: violates /properties/checks/minItems"),
        ] {
            document["checks"] = checks;
            assert_eq!(read(&document.to_string()).unwrap_err(), [problem]);
        }
    }

    #[test]
    fn what_was_not_allowed_is_refused_each_time() {
        let (mut report, json) = example();
        assert_eq!(validate_built(&report, &json), Ok(()));
        report.checks[0].title = String::new();
        let json = serde_json::to_string(&report).unwrap();
        for _ in 0..2 {
            let problems = validate_built(&report, &json).unwrap_err();
            assert!(problems[0].starts_with("/checks/0/title"), "{problems:?}");
        }
    }
}
