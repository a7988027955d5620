//! Things to store.

use chrono::{DateTime, Utc};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use verifyd::domain::completion::{BlockedBy, Completion, FailureEntry};
use verifyd::domain::connection::{CredentialKind, NewConnection};
use verifyd::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
};
use verifyd::domain::report::{Check, CheckStatus, Identity, NextStep, ReportDraft, Severity};
use verifyd::domain::{ConnectionId, Outcome, Reason, RunId, TenantId, WorkerId, WorkspaceId};
use verifyd::ports::store::{
    Claim, ClaimAnswer, ClaimPolicy, Heartbeat, Store, SweepCursor, SweepPolicy,
};
use verifyd::ports::vault::SealedCredential;

/// Of a worker that works on many runs at the same time.
pub const POLICY: ClaimPolicy = ClaimPolicy {
    max_attempts: 3,
    run_deadline: Duration::from_secs(600),
    isolated: false,
};

/// Of a worker that works on one run at a time.
pub const ISOLATED: ClaimPolicy = ClaimPolicy {
    isolated: true,
    ..POLICY
};

/// Long enough that nothing dies while a slow machine runs a test.
pub const SWEEP: SweepPolicy = SweepPolicy {
    worker_dead_after: Duration::from_secs(300),
    redeliver_after: Duration::from_secs(300),
    redeliver: false,
    batch: 100,
    window: 1000,
    from: SweepCursor::START,
};

pub fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

pub fn heartbeat(name: &str) -> Heartbeat {
    Heartbeat {
        worker_id: worker(name),
        version: "0.1.0".into(),
        concurrency: 8,
        in_flight: 1,
    }
}

pub fn context(connection: i64) -> Value {
    json!({
        "provider": "microsoft",
        "module": "core",
        "provider_connection_id": connection,
        "target_scope": { "entra_tenant_id": "11111111-2222-4333-8444-555555555555" },
        "note": { "the application's": ["own", 1] },
    })
}

/// Claims a run that must be there to claim; alone where it needs to be, as a worker does.
pub async fn claim(store: &Arc<dyn Store>, run: RunId, name: &str) -> Claim {
    let me = worker(name);
    let answer = match store.claim(run, &me, &POLICY).await.unwrap() {
        ClaimAnswer::RequiresIsolation => store.claim(run, &me, &ISOLATED).await.unwrap(),
        answer => answer,
    };
    answer.claimed().expect("the run can be claimed")
}

fn check(status: CheckStatus, reason: Option<Reason>) -> Check {
    Check {
        key: "connection.state".into(),
        title: "Connection".into(),
        status,
        severity: Severity::High,
        blocking: true,
        reason_code: reason,
        message: "A message.".into(),
        evidence: Vec::new(),
        next_steps: vec![NextStep {
            label: "Look".into(),
            url: "/look".into(),
        }],
    }
}

fn finished(check: Check, outcome: Outcome) -> Completion {
    let finished = ReportDraft {
        identity: Identity::default(),
        generated_at: "2026-01-02T03:04:05Z".parse::<DateTime<Utc>>().unwrap(),
        previous_report_id: None,
        checks: vec![check],
    }
    .finish(&[], "/");
    assert_eq!(finished.replaced, None);
    Completion {
        outcome,
        fingerprint: finished.report.fingerprint.clone(),
        overall: finished.report.summary.overall.as_str().into(),
        report: finished.json,
        failure_summary: Vec::new(),
        blocked: None,
        inventory: None,
        checked: None,
        connection: None,
        facts: None,
    }
}

/// What is stored of it.
pub fn report_of(completion: &Completion) -> Value {
    serde_json::from_str(completion.report.get()).unwrap()
}

/// The same completion with another report.
pub fn change_report(completion: &mut Completion, change: impl FnOnce(&mut Value)) {
    let mut report = report_of(completion);
    change(&mut report);
    completion.report = to_raw_value(&report).unwrap();
}

pub fn succeeded() -> Completion {
    finished(check(CheckStatus::Pass, None), Outcome::Succeeded)
}

fn any_reason(stage: verifyd::domain::reason::Stage) -> Reason {
    *Reason::ALL.iter().find(|r| r.stage() == stage).unwrap()
}

pub fn failed() -> Completion {
    let reason = any_reason(verifyd::domain::reason::Stage::Provider);
    let mut completion = finished(check(CheckStatus::Fail, Some(reason)), Outcome::Failed);
    completion.failure_summary = vec![FailureEntry {
        check: "connection.state".into(),
        reason_code: reason,
        message: "A message.".into(),
    }];
    completion
}

pub fn blocked() -> Completion {
    let reason = any_reason(verifyd::domain::reason::Stage::Preflight);
    let mut completion = finished(check(CheckStatus::Fail, Some(reason)), Outcome::Blocked);
    completion.blocked = Some(BlockedBy {
        reason_code: reason,
        next_steps: vec![NextStep {
            label: "Look".into(),
            url: "/look".into(),
        }],
    });
    completion
}

/// An inventory of (key, granted) pairs.
pub fn refresh(tenant: i64, permissions: &[(&str, bool)]) -> Arc<InventoryRefresh> {
    let entries: BTreeMap<String, InventoryEntry> = permissions
        .iter()
        .map(|(key, granted)| {
            let entry = InventoryEntry {
                status: if *granted {
                    PermissionStatus::Granted
                } else {
                    PermissionStatus::Missing
                },
                details: PermissionDetails {
                    required: true,
                    app_role_id: Some(format!("role of {key}")),
                    satisfied_by: None,
                    source: Some(InventorySource::AppRoleAssignments),
                },
            };
            ((*key).to_owned(), entry)
        })
        .collect();
    Arc::new(InventoryRefresh {
        workspace_id: Some(WorkspaceId(1)),
        tenant_id: TenantId(tenant),
        source: InventorySource::AppRoleAssignments,
        entries: Arc::new(entries.into()),
    })
}

pub fn new_connection(tenant: i64) -> NewConnection {
    NewConnection {
        workspace_id: WorkspaceId(1),
        tenant_id: TenantId(tenant),
        provider: "microsoft".into(),
        display_name: Some("Contoso".into()),
        entra_tenant_id: "11111111-2222-4333-8444-555555555555".into(),
        client_id: "66666666-7777-4888-8999-000000000000".into(),
        cloud: "global".into(),
        module: Some("core".into()),
    }
}

pub fn sealed(connection: ConnectionId, payload: &str) -> SealedCredential {
    SealedCredential {
        kind: CredentialKind::ClientSecret,
        payload: format!("{payload} of {connection}"),
        expires_at: Some("2030-01-02T03:04:05.678Z".parse().unwrap()),
    }
}
