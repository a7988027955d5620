//! When the credential expires, told before it does.

use crate::microsoft::directory::{Directory, HEALTH, Reply, application};
use crate::microsoft::fixture::{Found, provider, run, secret, settings, target};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use verifyd::domain::Reason;
use verifyd::domain::connection_facts::{CredentialExpiry, ExpirySource};
use verifyd::domain::credential::Credential;
use verifyd::domain::report::{
    CheckStatus, EvidenceKind, Overall, ReportDraft, Severity, summarise,
};
use verifyd::ports::clock::Clock;
use verifyd::provider::microsoft::MicrosoftProvider;

const EXPIRY: &str = "credential.expiry";

/// Always this time.
struct At(DateTime<Utc>);

impl Clock for At {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn at(directory: &Directory, now: DateTime<Utc>) -> MicrosoftProvider {
    let settings = settings(directory.base(), directory.base());
    MicrosoftProvider::new(&settings, Arc::new(At(now))).unwrap()
}

async fn with_secrets(secrets: &[(&str, &str)]) -> Directory {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| facts.application = application(HEALTH, &[], secrets));
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
async fn the_warning_grows_with_each_step() {
    let now = time("2026-01-01T00:00:00Z");
    for (left, expected) in [
        (TimeDelta::days(31), None),
        (TimeDelta::days(30) + TimeDelta::seconds(1), None),
        (TimeDelta::days(30), Some(Severity::Low)),
        (TimeDelta::days(15), Some(Severity::Low)),
        (TimeDelta::days(14), Some(Severity::Medium)),
        (TimeDelta::days(8), Some(Severity::Medium)),
        (TimeDelta::days(7), Some(Severity::High)),
        (TimeDelta::days(2), Some(Severity::High)),
        (TimeDelta::days(1), Some(Severity::Critical)),
        (TimeDelta::hours(1), Some(Severity::Critical)),
    ] {
        let directory = Directory::start(HEALTH).await;
        let mut target = target("health_check");
        target.credential_expires_at = Some(now + left);
        let found = run(&at(&directory, now), &target).await;
        let expected = match expected {
            None => (CheckStatus::Pass, None, Severity::Info),
            Some(severity) => (
                CheckStatus::Warn,
                Some(Reason::CredentialExpiring),
                severity,
            ),
        };
        assert_eq!(verdict(&found), expected, "{left}");
        assert!(found.0.healthy, "a warning fails no run");
        let overall = summarise(&found.0.checks).overall;
        let wanted = match expected.0 {
            CheckStatus::Pass => Overall::Ready,
            _ => Overall::NeedsAttention,
        };
        assert_eq!(overall, wanted);
    }
}

#[tokio::test]
async fn the_fingerprint_changes_at_the_steps_only() {
    let end = time("2026-06-01T12:00:00Z");
    let directory = Directory::start(HEALTH).await;
    let mut target = target("health_check");
    target.credential_expires_at = Some(end);
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
async fn a_secret_is_found_by_its_first_characters() {
    let now = time("2026-01-01T00:00:00Z");
    /// Hint and end of each secret, the end that counts, how many there were.
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static str,
        &'static [&'static str],
    );
    let cases: [Case; 5] = [
        (
            &[("can", "2026-03-01T00:00:00Z")],
            "2026-03-01T00:00:00Z",
            &[],
        ),
        (
            &[
                ("abc", "2027-01-01T00:00:00Z"),
                ("can", "2026-02-01T00:00:00Z"),
            ],
            "2026-02-01T00:00:00Z",
            &[],
        ),
        // Several with one hint: the latest that has not ended.
        (
            &[
                ("can", "2025-12-01T00:00:00Z"),
                ("can", "2026-05-01T00:00:00Z"),
                ("can", "2026-04-01T00:00:00Z"),
            ],
            "2026-05-01T00:00:00Z",
            &["3"],
        ),
        // Case counts.
        (
            &[
                ("CAN", "2028-01-01T00:00:00Z"),
                ("can", "2026-04-01T00:00:00Z"),
            ],
            "2026-04-01T00:00:00Z",
            &[],
        ),
        // A secret of long ago has no hint.
        (
            &[
                ("", "2026-09-01T00:00:00Z"),
                ("abc", "2027-01-01T00:00:00Z"),
            ],
            "2026-09-01T00:00:00Z",
            &[],
        ),
    ];
    for (secrets, end, candidates) in cases {
        let directory = with_secrets(secrets).await;
        let found = run(&at(&directory, now), &target("health_check")).await;
        assert_eq!(
            found.evidence(EXPIRY, EvidenceKind::EndsAt),
            [end],
            "{secrets:?}"
        );
        assert_eq!(
            found.evidence(EXPIRY, EvidenceKind::Candidates),
            candidates,
            "{secrets:?}"
        );
        assert_eq!(source(&found), ["registration"]);
        let expiry = found.0.facts.expiry.unwrap();
        assert_eq!(expiry.expires_at, Some(time(end)));
    }
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
        directory.change(|facts| facts.application = application(HEALTH, &[], &secrets));
        let mut target = target("health_check");
        target.credential_expires_at = Some(time(recorded));
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
async fn an_end_that_nobody_knows_is_said_and_costs_nothing() {
    let directory = with_secrets(&[("abc", "2027-01-01T00:00:00Z")]).await;
    let unknown = Directory::start(HEALTH).await;
    unknown.change(|facts| facts.owner = None);
    let refused = Directory::start(HEALTH).await;
    refused.script(|seen| (seen.call == "application").then(Reply::denied));
    for directory in [directory, unknown, refused] {
        let found = run(&provider(&directory), &target("health_check")).await;
        assert_eq!(
            verdict(&found),
            (
                CheckStatus::Skip,
                Some(Reason::CredentialExpiryUnknown),
                Severity::Info
            )
        );
        let steps = &found.check(EXPIRY).next_steps;
        assert_eq!(steps.len(), 2);
        assert!(found.0.healthy);
        assert_eq!(summarise(&found.0.checks).overall, Overall::Ready);
        assert_eq!(found.0.facts.expiry, None);
    }
}

#[tokio::test]
async fn what_an_earlier_check_has_read_stands_in_for_a_registration_that_does_not_answer() {
    let now = time("2026-01-01T00:00:00Z");
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| (seen.call == "application").then(Reply::denied));
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

#[tokio::test]
async fn a_certificate_says_it_itself_and_a_federated_token_never_ends() {
    let directory = Directory::start(HEALTH).await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["worker.test".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 1, 10);
    let mut target = target("health_check");
    target.credential = Credential::Certificate {
        private_key_pem: key.serialize_pem().into(),
        certificate_pem: params.self_signed(&key).unwrap().pem(),
    };
    let found = run(&provider(&directory), &target).await;
    assert_eq!(
        verdict(&found),
        (
            CheckStatus::Warn,
            Some(Reason::CredentialExpiring),
            Severity::Medium
        )
    );
    assert_eq!(
        found.evidence(EXPIRY, EvidenceKind::EndsAt),
        ["2026-01-10T00:00:00Z"]
    );
    assert_eq!(source(&found), ["certificate"]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(
        &path,
        crate::microsoft::directory::token(&json!({"iss": "x"})),
    )
    .unwrap();
    target.credential = Credential::FederatedTokenFile { path };
    let found = run(&provider(&directory), &target).await;
    assert_eq!(verdict(&found), (CheckStatus::Pass, None, Severity::Info));
    assert_eq!(source(&found), ["federated_token"]);
    assert!(found.check(EXPIRY).message.contains("does not expire"));
    assert_eq!(directory.count("application"), 0);
}

#[tokio::test]
async fn the_secret_never_reaches_the_findings() {
    let directory = with_secrets(&[("can", "2026-01-05T00:00:00Z")]).await;
    let mut target = target("health_check");
    target.credential = secret("canary-of-the-secret");
    // `run` looks for it in all that was found.
    run(&provider(&directory), &target).await;
}
