//! A provider, a connection and a target for tests.

use crate::directory::{CLIENT, Directory, TENANT};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use verifyd::domain::connection::{ConnectionStatus, ProviderConnection};
use verifyd::domain::connection_facts::ConnectionFacts;
use verifyd::domain::credential::Credential;
use verifyd::domain::link::LinkContext;
use verifyd::domain::report::{Check, CheckStatus, EvidenceKind};
use verifyd::domain::{ConnectionId, Reason, RunId, TenantId, WorkspaceId};
use verifyd::ports::clock::Clock;
use verifyd::ports::provider::{Findings, Provider, Target};
use verifyd::provider::microsoft::{CloudSettings, MicrosoftProvider, MicrosoftSettings, Pauses};

/// 2026-01-01T00:00:00Z, always.
pub struct Still;

impl Clock for Still {
    fn now(&self) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }
}

pub fn settings(login: &str, graph: &str) -> MicrosoftSettings {
    MicrosoftSettings {
        default_cloud: "test".into(),
        request_timeout: Duration::from_secs(120),
        max_attempts_per_request: 3,
        pauses: Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
            ..Pauses::default()
        },
        modules_dir: std::path::PathBuf::new(),
        clouds: BTreeMap::from([(
            "test".into(),
            CloudSettings {
                login: login.into(),
                graph: graph.into(),
                portal: "https://portal.example.com".into(),
            },
        )]),
    }
}

pub fn provider_with(settings: &MicrosoftSettings) -> MicrosoftProvider {
    MicrosoftProvider::new(settings, Arc::new(Still)).unwrap()
}

pub fn provider(directory: &Directory) -> MicrosoftProvider {
    provider_with(&settings(directory.base(), directory.base()))
}

pub fn secret(text: &str) -> Credential {
    Credential::ClientSecret {
        secret: text.to_owned().into(),
        client_id: None,
    }
}

pub fn target(module: &str) -> Target {
    Target {
        run_id: RunId(1),
        connection: ProviderConnection {
            id: ConnectionId(7),
            workspace_id: WorkspaceId(8),
            tenant_id: TenantId(9),
            provider: "microsoft".into(),
            display_name: None,
            status: ConnectionStatus::Enabled,
            entra_tenant_id: Some(TENANT.into()),
            client_id: Some(CLIENT.into()),
            cloud: None,
            module: None,
            created_at: None,
            updated_at: None,
        },
        credential: secret("canary-secret-value"),
        credential_changed_at: None,
        credential_expires_at: None,
        known: ConnectionFacts::default(),
        entra_tenant_id: TENANT.into(),
        module: module.into(),
        links: LinkContext {
            connections: "/connections".into(),
            connection: "/connections/{id}".into(),
            run: "/runs/{id}".into(),
            run_id: 1,
            connection_id: Some(7),
            portal: "https://portal.example.com".into(),
            login: "https://login.example.com".into(),
            graph: "https://graph.example.com".into(),
            entra_tenant_id: Some(TENANT.into()),
            client_id: Some(CLIENT.into()),
            ..LinkContext::default()
        },
        deadline: tokio::time::Instant::now() + Duration::from_secs(600),
        correlation_id: Uuid::from_u128(0xC0),
    }
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
