//! When the credential expires, told before it does.

use crate::microsoft::directory::{Directory, HEALTH, Reply, application};
use crate::microsoft::fixture::{At, Found, run, settings, target};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeSet;
use std::sync::Arc;
use verifyd::domain::Reason;
use verifyd::domain::connection_facts::{CredentialExpiry, ExpirySource, RecordedExpiry};
use verifyd::domain::report::{CheckStatus, EvidenceKind, ReportDraft, Severity};
use verifyd::provider::microsoft::MicrosoftProvider;

const EXPIRY: &str = "credential.expiry";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn at(directory: &Directory, now: DateTime<Utc>) -> MicrosoftProvider {
    let settings = settings(directory.base(), directory.base());
    MicrosoftProvider::new(&settings, Arc::new(At(now))).unwrap()
}

async fn with_secrets(secrets: &[(&str, &str)]) -> Directory {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| facts.application = application(HEALTH, secrets));
    directory
}

fn verdict(found: &Found) -> (CheckStatus, Option<Reason>, Severity) {
    let check = found.check(EXPIRY);
    (check.status, check.reason_code, check.severity)
}

fn source(found: &Found) -> Vec<&str> {
    found.evidence(EXPIRY, EvidenceKind::Source)
}

#[tokio::test]
async fn the_fingerprint_changes_at_the_steps_only() {
    let end = time("2026-06-01T12:00:00Z");
    let directory = Directory::start(HEALTH).await;
    let mut target = target("health_check");
    target.credential_expiry = RecordedExpiry::At(end);
    let mut fingerprints = BTreeSet::new();
    let mut changes = 0;
    let mut last = String::new();
    for hours in (1..=24 * 40).rev().step_by(13) {
        let now = end - TimeDelta::hours(hours);
        let found = run(&at(&directory, now), &target).await;
        let draft = ReportDraft {
            identity: Default::default(),
            generated_at: now,
            previous_report_id: None,
            checks: found.0.checks,
        };
        let finished = draft.finish(&[], "/runs/1");
        assert_eq!(finished.replaced, None);
        let fingerprint = finished.report.fingerprint;
        changes += usize::from(fingerprint != last);
        last = fingerprint.clone();
        fingerprints.insert(fingerprint);
    }
    assert_eq!((fingerprints.len(), changes), (5, 5));
}

#[tokio::test]
async fn a_recorded_date_tells_secrets_apart_and_the_earlier_date_counts() {
    let now = time("2026-01-01T00:00:00Z");
    // Something is missing, so that the registration is read although a date is recorded.
    let granted = &["Organization.Read.All", "Application.Read.All"];
    for (recorded, end, by) in [
        (
            "2026-04-01T09:00:00Z",
            "2026-04-01T00:00:00Z",
            "registration",
        ),
        ("2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z", "recorded"),
        (
            "2027-02-01T00:00:00Z",
            "2026-05-01T00:00:00Z",
            "registration",
        ),
    ] {
        let directory = Directory::start(granted).await;
        let secrets = [
            ("can", "2026-05-01T00:00:00Z"),
            ("can", "2026-04-01T00:00:00Z"),
        ];
        directory.change(|facts| facts.application = application(HEALTH, &secrets));
        let mut target = target("health_check");
        target.credential_expiry = RecordedExpiry::At(time(recorded));
        let found = run(&at(&directory, now), &target).await;
        assert_eq!(
            found.evidence(EXPIRY, EvidenceKind::EndsAt),
            [end],
            "{recorded}"
        );
        assert_eq!(source(&found), [by], "{recorded}");
    }
}

#[tokio::test]
async fn a_match_that_had_ended_before_the_sign_in_is_not_the_secret() {
    let now = time("2026-01-01T00:00:00Z");
    let directory = with_secrets(&[("can", "2025-12-31T23:00:00Z")]).await;
    let mut target = target("health_check");
    // What an earlier check had read there counts no more, either.
    target.known.expiry = Some(verifyd::domain::connection_facts::CredentialExpiry {
        expires_at: Some(time("2026-01-03T00:00:00Z")),
        source: verifyd::domain::connection_facts::ExpirySource::Registration,
    });
    let found = run(&at(&directory, now), &target).await;
    assert_eq!(
        verdict(&found),
        (
            CheckStatus::Skip,
            Some(Reason::CredentialExpiryUnknown),
            Severity::Info
        )
    );
    let message = &found.check(EXPIRY).message;
    assert!(message.contains("The registration was read"), "{message}");
    assert!(found.0.facts.or(&target.known).expiry.is_none());
}

#[tokio::test]
async fn what_an_earlier_check_has_read_stands_in_for_a_registration_that_does_not_answer() {
    let now = time("2026-01-01T00:00:00Z");
    let directory = Directory::start(HEALTH).await;
    directory.answer("application", Reply::denied());
    let mut target = target("health_check");
    let mut remembered = |end: &str| {
        target.known.expiry = Some(CredentialExpiry {
            expires_at: Some(time(end)),
            source: ExpirySource::Registration,
        });
        target.clone()
    };
    let found = run(&at(&directory, now), &remembered("2026-01-20T00:00:00Z")).await;
    assert_eq!(
        verdict(&found),
        (
            CheckStatus::Warn,
            Some(Reason::CredentialExpiring),
            Severity::Low
        )
    );
    // One that is past was another secret's.
    let found = run(&at(&directory, now), &remembered("2025-12-20T00:00:00Z")).await;
    assert_eq!(
        found.status(EXPIRY).1,
        Some(Reason::CredentialExpiryUnknown)
    );
}
