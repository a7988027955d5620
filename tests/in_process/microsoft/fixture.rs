//! A provider for tests, and what they ask of its findings.

use crate::microsoft::directory::Directory;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use std::sync::Arc;
pub use test_support::microsoft::{Still, secret, settings, target};
use verifyd::domain::Reason;
use verifyd::domain::report::{Check, CheckStatus, EvidenceKind, FinishedReport, ReportDraft};
use verifyd::ports::clock::Clock;
use verifyd::ports::provider::{Findings, Provider, Target};
use verifyd::provider::microsoft::{MicrosoftProvider, MicrosoftSettings};

/// Always this time.
pub struct At(pub DateTime<Utc>);

impl Clock for At {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

pub fn provider_with(settings: &MicrosoftSettings) -> MicrosoftProvider {
    MicrosoftProvider::new(settings, Arc::new(Still)).unwrap()
}

pub fn provider(directory: &Directory) -> MicrosoftProvider {
    provider_with(&settings(directory.base(), directory.base()))
}

/// Findings, with what tests ask of them.
pub struct Found(pub Findings);

impl Found {
    pub fn check(&self, key: &str) -> &Check {
        let mut matching = self.0.checks.iter().filter(|c| c.key == key);
        matching.next().unwrap_or_else(|| panic!("no check {key}"))
    }

    pub fn status(&self, key: &str) -> (CheckStatus, Option<Reason>) {
        let check = self.check(key);
        (check.status, check.reason_code)
    }

    pub fn evidence(&self, key: &str, kind: EvidenceKind) -> Vec<&str> {
        let check = self.check(key);
        let of_kind = check.evidence.iter().filter(|e| e.kind == kind);
        of_kind.map(|e| e.value.as_str()).collect()
    }

    /// The report that these findings make, once none of these secrets may be in it.
    pub fn report(self, secrets: &[SecretString]) -> FinishedReport {
        let draft = ReportDraft {
            identity: Default::default(),
            generated_at: Still.now(),
            previous_report_id: None,
            checks: self.0.checks,
        };
        draft.finish(secrets, "/runs/1")
    }

    /// Keys of the checks with this status.
    pub fn with(&self, status: CheckStatus) -> Vec<&str> {
        let matching = self.0.checks.iter().filter(|c| c.status == status);
        matching.map(|c| c.key.as_str()).collect()
    }
}

/// Runs the check, and holds it to what is always true.
pub async fn run(provider: &MicrosoftProvider, target: &Target) -> Found {
    let findings = provider.check(target).await;
    let planned: Vec<_> = provider
        .planned_checks(&target.module)
        .into_iter()
        .map(|spec| (spec.key, spec.title, spec.blocking))
        .collect();
    let made: Vec<_> = findings
        .checks
        .iter()
        .map(|check| (check.key.clone(), check.title.clone(), check.blocking))
        .collect();
    assert_eq!(made, planned, "every planned check once, in order");
    let sick = findings.checks.iter().any(|check| {
        check.status == CheckStatus::Fail
            && !check.reason_code.is_some_and(|reason| {
                reason.is_missing_permission() || reason == Reason::PermissionNotOffered
            })
    });
    // An unknown module has no checks and is never healthy.
    assert_eq!(
        findings.healthy,
        !sick && !planned.is_empty(),
        "{:?}",
        findings.checks
    );
    assert!(findings.inventory.is_some() || !findings.healthy);
    for check in &findings.checks {
        assert_eq!(
            check.reason_code.is_none(),
            check.status == CheckStatus::Pass
        );
    }
    let text = format!("{findings:?} {provider:?}");
    for canary in ["canary", "eyJ"] {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
    Found(findings)
}
