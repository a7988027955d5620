//! Verification reports: valid whatever the provider answers, equal when nothing changed.

use chrono::{TimeZone as _, Utc};
use proptest::collection::vec;
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::report::diff::{Change, diff};
use verifyd::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, FinishedReport, Identity, NextStep, Overall,
    ReportDraft, Severity, schema,
};
use verifyd::domain::{ConnectionId, Outcome, RunId};

fn draft(checks: Vec<Check>) -> ReportDraft {
    ReportDraft {
        identity: Identity {
            provider_connection_id: Some(ConnectionId(7)),
            entra_tenant_id: Some("5c000000-0000-4000-8000-000000000001".into()),
            client_id: Some("5c000000-0000-4000-8000-00000000000a".into()),
            cloud: Some("global".into()),
        },
        generated_at: Utc.with_ymd_and_hms(2026, 11, 23, 9, 0, 0).unwrap(),
        previous_report_id: Some(RunId(41)),
        checks,
    }
}

fn finish(checks: Vec<Check>) -> FinishedReport {
    draft(checks).finish(&[], "/operation-runs/42")
}

/// What is stored.
fn tree(finished: &FinishedReport) -> Value {
    serde_json::from_str(finished.json.get()).unwrap()
}

fn check(key: &str, status: CheckStatus, reason: Option<Reason>) -> Check {
    Check {
        key: key.into(),
        title: format!("Title of {key}"),
        status,
        severity: reason.map_or(Severity::Info, Reason::severity),
        blocking: false,
        reason_code: reason,
        message: reason.map_or_else(|| "Fine.".to_owned(), Reason::message),
        evidence: vec![
            Evidence::new(EvidenceKind::HttpStatus, 403),
            Evidence::new(EvidenceKind::RequestId, key),
        ],
        next_steps: vec![NextStep {
            label: "Do it".into(),
            url: "https://learn.microsoft.com/graph/errors".into(),
        }],
    }
}

/// Any check that a well-behaved provider could come up with, with texts of any kind.
fn any_check() -> impl Strategy<Value = Check> {
    (
        0..CheckStatus::ALL.len(),
        0..Severity::ALL.len(),
        any::<bool>(),
        0..Reason::ALL.len(),
        ".{1,250}",
        "\\PC{0,1100}",
        prop_oneof![9 => vec((0..EvidenceKind::ALL.len(), ".{0,40}"), 0..5), 1 => vec((0..EvidenceKind::ALL.len(), ".{0,400}"), 40..60)],
        1..14usize,
    )
        .prop_map(
            |(status, severity, blocking, reason, title, message, evidence, steps)| {
                let status = CheckStatus::ALL[status];
                let quiet = matches!(status, CheckStatus::Pass | CheckStatus::Running);
                Check {
                    key: String::new(),
                    title,
                    status,
                    severity: Severity::ALL[severity],
                    blocking,
                    reason_code: (!quiet).then(|| Reason::ALL[reason]),
                    message: format!("m{message}"),
                    evidence: evidence
                        .into_iter()
                        .map(|(kind, value)| Evidence::new(EvidenceKind::ALL[kind], value))
                        .collect(),
                    next_steps: vec![
                        NextStep {
                            label: "Next".into(),
                            url: "/operation-runs/1".into(),
                        };
                        steps
                    ],
                }
            },
        )
}

fn keyed(checks: Vec<Check>) -> Vec<Check> {
    checks
        .into_iter()
        .enumerate()
        .map(|(i, check)| Check {
            key: format!("provider.check_{i}"),
            ..check
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_answers_make_a_valid_report(checks in vec(any_check(), 1..25)) {
        let finished = finish(keyed(checks.clone()));
        prop_assert_eq!(&finished.replaced, &None);
        prop_assert_eq!(schema::validate(&tree(&finished)), Ok(()));
        prop_assert!(schema::fingerprint_matches(&tree(&finished)).unwrap());
        let counts = finished.report.summary.counts;
        prop_assert_eq!(counts.total as usize, checks.len());
        prop_assert_eq!(
            counts.total,
            counts.pass + counts.fail + counts.warn + counts.skip + counts.running
        );
        let has = |s: CheckStatus| checks.iter().any(|c| c.status == s);
        let expected = if has(CheckStatus::Running) {
            Overall::Running
        } else if checks.iter().any(|c| c.status == CheckStatus::Fail && c.blocking) {
            Overall::Blocked
        } else if has(CheckStatus::Fail) || has(CheckStatus::Warn) {
            Overall::NeedsAttention
        } else {
            Overall::Ready
        };
        prop_assert_eq!(finished.report.summary.overall, expected);
    }

    #[test]
    fn equal_findings_have_equal_fingerprints_whatever_the_order(
        checks in vec(any_check(), 2..20),
        seed in any::<u64>(),
    ) {
        let checks = keyed(checks);
        let mut shuffled = checks.clone();
        let n = shuffled.len();
        for i in 0..n {
            shuffled.swap(i, (seed as usize).wrapping_mul(i + 7) % n);
        }
        for check in &mut shuffled {
            // Evidence beyond the limit is cut, so only what fits may be turned round.
            check.evidence.truncate(50);
            check.evidence.reverse();
            check.message = "Told in other words.".into();
            check.title.push('!');
            check.next_steps.truncate(1);
            for evidence in &mut check.evidence {
                if !evidence.kind.is_stable() {
                    evidence.value = "another one".into();
                }
            }
        }
        prop_assert_eq!(
            finish(checks).report.fingerprint,
            finish(shuffled).report.fingerprint
        );
    }

    #[test]
    fn a_changed_finding_changes_the_fingerprint(
        checks in vec(any_check(), 1..20),
        which in any::<prop::sample::Index>(),
    ) {
        let checks = keyed(checks);
        let mut changed = checks.clone();
        let check = which.get(&checks).key.clone();
        let target = changed.iter_mut().find(|c| c.key == check).unwrap();
        target.blocking = !target.blocking;
        prop_assert_ne!(
            finish(checks.clone()).report.fingerprint,
            finish(changed.clone()).report.fingerprint
        );
        let (before, now) = (finish(checks).report, finish(changed).report);
        let rows = diff(&before, &now);
        let differing: Vec<_> = rows.iter().filter(|r| r.change != Change::Unchanged).collect();
        prop_assert_eq!(differing.len(), 1);
        prop_assert_eq!(differing[0].key.as_str(), check.as_str());
    }

    /// Whatever is in the draft, what comes out is valid, and a draft that was not is replaced.
    #[test]
    fn a_malformed_draft_becomes_the_fallback_report(
        key in ".{0,40}",
        url in ".{0,60}",
        reason in 0..Reason::ALL.len(),
        cloud in ".{0,20}",
    ) {
        let mut check = check("provider.x", CheckStatus::Fail, Some(Reason::ALL[reason]));
        check.key = key;
        check.next_steps[0].url = url;
        let mut draft = draft(vec![check]);
        draft.identity.cloud = Some(cloud);
        let finished = draft.finish(&[], "javascript:alert(1)");
        prop_assert_eq!(schema::validate(&tree(&finished)), Ok(()));
        if finished.replaced.is_some() {
            prop_assert_eq!(
                finished.report.checks[0].reason_code,
                Some(Reason::ReportInvalid)
            );
            prop_assert_eq!(
                finished.report.checks[1].reason_code,
                Some(Reason::ALL[reason])
            );
        }
    }
}

#[test]
fn a_report_with_a_secret_is_never_written() {
    let secret = "canary-3f9d2b71";
    for place in ["message", "evidence", "label", "title"] {
        let mut bad = check("provider.x", CheckStatus::Fail, Some(Reason::AuthUnknown));
        match place {
            "message" => bad.message = format!("It was {secret}."),
            "evidence" => bad
                .evidence
                .push(Evidence::new(EvidenceKind::Found, format!("x{secret}"))),
            "label" => bad.next_steps[0].label = secret.into(),
            _ => bad.title = secret.into(),
        }
        let finished = draft(vec![bad]).finish(&[SecretString::from(secret)], "/runs/1");
        assert!(finished.replaced.is_some(), "{place}");
        assert!(!finished.json.get().contains(secret), "{place}");
        assert!(!finished.replaced.unwrap().contains(secret), "{place}");
    }
    let mut jwt = check("provider.x", CheckStatus::Fail, Some(Reason::AuthUnknown));
    jwt.message = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2lnbmF0dXJl".into();
    assert!(finish(vec![jwt]).replaced.is_some());
}

#[test]
fn the_schema_refuses_what_it_must() {
    let good = tree(&finish(vec![check(
        "provider.x",
        CheckStatus::Fail,
        Some(Reason::AuthUnknown),
    )]));
    assert_eq!(schema::validate(&good), Ok(()));
    let cases: [(&str, Value); 14] = [
        ("/schema_version", json!("1.6.0")),
        ("/flow", json!("another.flow")),
        ("/generated_at", json!("2026-11-23T09:00:00+01:00")),
        ("/generated_at", json!("2026-13-45T09:00:00Z")),
        ("/fingerprint", json!("ABC")),
        ("/previous_report_id", json!(0)),
        ("/identity/entra_tenant_id", json!("contoso.com")),
        ("/summary/overall", json!("ready")),
        ("/summary/counts/fail", json!(2)),
        ("/checks/0/key", json!("No Dots")),
        ("/checks/0/reason_code", Value::Null),
        ("/checks/0/reason_code", json!("made_up")),
        ("/checks/0/next_steps", json!([])),
        ("/checks/0/next_steps/0/url", json!("javascript:alert(1)")),
    ];
    for (path, value) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value.clone();
        assert!(schema::validate(&bad).is_err(), "{path} = {value}");
    }
    let mut bad = good.clone();
    bad["extra"] = json!(1);
    assert!(schema::validate(&bad).is_err());
    let mut bad = good.clone();
    let twice = bad["checks"][0].clone();
    bad["checks"].as_array_mut().unwrap().push(twice);
    bad["summary"]["counts"]["total"] = json!(2);
    bad["summary"]["counts"]["fail"] = json!(2);
    assert_eq!(
        schema::validate(&bad),
        Err(vec!["/checks/1/key: occurs twice".to_owned()])
    );
}

#[test]
fn failure_summary_and_blocked_by_follow_from_the_report() {
    let finished = finish(vec![
        check("provider.a", CheckStatus::Pass, None),
        check(
            "provider.b",
            CheckStatus::Fail,
            Some(Reason::CredentialMissing),
        ),
        check("provider.c", CheckStatus::Warn, Some(Reason::Throttled)),
    ]);
    assert!(finished.failure_summary(Outcome::Succeeded).is_empty());
    let summary = finished.failure_summary(Outcome::Failed);
    assert_eq!(summary.len(), 1);
    assert_eq!(summary[0].check, "provider.b");
    let blocked = finished.blocked_by(Reason::CredentialMissing);
    assert_eq!(blocked.next_steps.len(), 1);
}

#[test]
fn a_report_as_it_stands_in_the_database() {
    let mut failing = check(
        "provider.authentication",
        CheckStatus::Fail,
        Some(Reason::SecretExpired),
    );
    failing.blocking = true;
    let skipped = check(
        "provider.identity",
        CheckStatus::Skip,
        Some(Reason::NotEvaluated),
    );
    insta::assert_json_snapshot!(tree(&finish(vec![
        check("preflight.tenant", CheckStatus::Pass, None),
        failing,
        skipped
    ])));
}

#[test]
fn every_stage_has_its_reasons() {
    for stage in Stage::ALL {
        assert!(Reason::ALL.iter().any(|r| r.stage() == *stage), "{stage}");
    }
}
