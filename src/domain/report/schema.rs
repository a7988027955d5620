//! Is a document a verification report v1.5?

use super::{Check, Report, SCHEMA_VERSION};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The published schema.
pub const SCHEMA: &str = include_str!("../../../contracts/verification-report.v1_5.schema.json");

/// At most this many problems are named.
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

/// The schema, and what a schema cannot say: unique keys, counts that add up, the right verdict
/// and a time in UTC. The problems name paths and rules, never values.
pub fn validate(document: &Value) -> Result<(), Vec<String>> {
    schema_allows(document)?;
    let report = Report::deserialize(document)
        .map_err(|e| vec![format!("/: not a report of this version: {e}")])?;
    adds_up(&report)
}

/// The same for a report that was just built, and its JSON.
pub(super) fn validate_built(report: &Report, json: &Value) -> Result<(), Vec<String>> {
    schema_allows(json)?;
    adds_up(report)
}

fn schema_allows(document: &Value) -> Result<(), Vec<String>> {
    // Looking for what is wrong takes several times as long as finding that nothing is.
    if VALIDATOR.is_valid(document) {
        return Ok(());
    }
    Err(VALIDATOR
        .iter_errors(document)
        .take(MAX_PROBLEMS)
        .map(|e| {
            let at = e.instance_path().to_string();
            format!(
                "{}: violates {}",
                if at.is_empty() { "/" } else { &at },
                e.schema_path()
            )
        })
        .collect())
}

/// What a schema cannot say.
fn adds_up(report: &Report) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    let mut keys = BTreeSet::new();
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
