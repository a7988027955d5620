//! Whole checks, from a recorded run to its report: every reason can be produced, and each report
//! says what is wrong, why it matters and what to click.

mod caller_side;
mod connection_facts;
mod hostile_provider;
mod misbehaving_provider;
mod missing_prerequisites;
mod poison_runs;
mod run_lifecycle;
mod scenarios;
mod service_manager;
mod snapshots;
mod tenant_isolation;
mod unusable_credentials;
mod worker_failure;

use test_support::world::ParsedRun;
use verifyd::domain::reason::Reason;
use verifyd::domain::report::schema;
use verifyd::domain::{Outcome, RunStatus};

/// What holds for every completed run.
fn assert_sound(run: &ParsedRun, what: &str) {
    assert_eq!(run.status, RunStatus::Completed, "{what}");
    assert!(run.outcome.is_some() && run.completed_at.is_some() && run.started_at.is_some());
    let report = run.report().unwrap_or_else(|| panic!("{what}: no report"));
    assert_eq!(schema::validate(report), Ok(()), "{what}");
    assert!(schema::fingerprint_matches(report).unwrap(), "{what}");
    for check in report["checks"].as_array().unwrap() {
        if check["status"] != "fail" {
            continue;
        }
        let reason: Reason = check["reason_code"].as_str().unwrap().parse().unwrap();
        let message = check["message"].as_str().unwrap();
        assert!(message.contains(reason.what()), "{what}: {message}");
        // Of a permission it is told what it is needed for.
        let why = message.contains(reason.why()) || message.contains("without it");
        assert!(why, "{what}: {message}");
        assert!(
            !check["next_steps"].as_array().unwrap().is_empty(),
            "{what}"
        );
    }
    let failures = run.failure_summary.as_array().unwrap();
    match run.outcome.unwrap() {
        Outcome::Succeeded => assert!(failures.is_empty(), "{what}"),
        Outcome::Failed => assert!(!failures.is_empty(), "{what}"),
        Outcome::Blocked => {
            assert!(!failures.is_empty(), "{what}");
            assert!(run.context["reason_code"].is_string(), "{what}");
            assert!(
                !run.context["next_steps"].as_array().unwrap().is_empty(),
                "{what}"
            );
        }
    }
}
