//! Things to store.

use crate::store::bed::Bed;
use chrono::{DateTime, Utc};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
pub use test_support::world::bound;
use test_support::world::{ParsedRun, operator};
use tokio::sync::Barrier;
use tracing::subscriber::DefaultGuard;
use verifyd::domain::completion::{BlockedBy, Completion, FailureEntry};
use verifyd::domain::connection::{
    ConnectionStatus, CredentialBinding, CredentialKind, NewConnection,
};
use verifyd::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
};
use verifyd::domain::report::{Check, CheckStatus, Identity, NextStep, ReportDraft, Severity};
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, Reason, RunId, TenantId, WorkerId, WorkspaceId};
use verifyd::ports::store::{
    AttemptEnd, AttemptRecord, Claim, ClaimAnswer, ClaimPolicy, Heartbeat, NewRun, RunFilter,
    Store, SweepCursor, SweepPolicy, Swept,
};
use verifyd::ports::vault::SealedCredential;

/// Of a worker that works on many runs at the same time.
pub const POLICY: ClaimPolicy = ClaimPolicy {
    max_attempts: 3,
    lease: Duration::from_secs(600),
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

/// Of JSON, for a text in SQL.
pub fn quoted(json: &Value) -> String {
    json.to_string().replace('\'', "''")
}

/// A completion of a connection's run that brings an inventory.
pub fn with_inventory() -> Completion {
    Completion {
        inventory: Some(refresh(7, &[("A.Read", true)])),
        connection: Some(ConnectionId(1)),
        ..succeeded()
    }
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

/// What a run goes through, as every suite needs it.
impl Bed {
    /// A queued run of verifyd's type, which another application has inserted.
    pub async fn queued(&self) -> RunId {
        self.queued_for(7, 1).await
    }

    /// A queued run of this tenant about this connection.
    pub async fn queued_for(&self, tenant: i64, connection: i64) -> RunId {
        let context = context(connection);
        self.insert_for(TenantId(tenant), RUN_TYPE, "queued", &context)
            .await
    }

    /// Queued runs in the order of their ids.
    pub async fn many_queued(&self, count: usize) -> Vec<RunId> {
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            runs.push(self.queued().await);
        }
        runs
    }

    /// A run that the store itself has recorded, and so counts as delivered.
    pub async fn recorded(&self, connection: i64) -> RunId {
        let recorded = self.store.record(&new_run(connection)).await;
        recorded.unwrap().run_id
    }

    pub async fn claim(&self, run: RunId, name: &str) -> Claim {
        claim(&self.store, run, name).await
    }

    /// Whether this claim was still the one that counts.
    pub async fn release(&self, held: &Claim, end: AttemptEnd, wait: Option<Duration>) -> bool {
        self.store
            .release(held, end, wait, None, false)
            .await
            .unwrap()
    }

    /// Claims a run and completes it.
    pub async fn complete(&self, run: RunId, completion: &Completion) {
        let held = self.claim(run, "w1").await;
        assert!(self.store.complete(&held, completion).await.unwrap());
    }

    /// A run that was completed so.
    pub async fn completed(&self, completion: &Completion) -> RunId {
        let run = self.queued().await;
        self.complete(run, completion).await;
        run
    }

    /// Changes columns of a run, as another application may.
    pub async fn save(&self, run: RunId, change: &str) {
        self.exec(&format!(
            "UPDATE operation_runs SET {change} WHERE id = {run}"
        ))
        .await;
    }

    pub async fn delete_run(&self, run: RunId) {
        self.exec(&format!("DELETE FROM operation_runs WHERE id = {run}"))
            .await;
    }

    pub async fn save_context(&self, run: RunId, context: &Value) {
        self.save(run, &format!("context = '{}'", quoted(context)))
            .await;
    }

    /// No inventory and no latest report was written.
    pub async fn has_learnt_nothing(&self) {
        let permissions = self.store.permissions(TenantId(7)).await.unwrap();
        assert_eq!(permissions, []);
        let freshness = self.store.inventory_freshness(TenantId(7)).await;
        assert_eq!(freshness.unwrap(), None);
        let latest = self.store.latest_report(ConnectionId(1)).await;
        assert_eq!(latest.unwrap(), None);
    }

    pub async fn sweep(&self) -> Swept {
        let swept = self.store.sweep(&SWEEP).await.unwrap();
        swept.expect("nobody else sweeps")
    }

    pub async fn run(&self, run: RunId) -> ParsedRun {
        self.store.run(run).await.unwrap().unwrap().into()
    }

    pub async fn attempts(&self, run: RunId) -> Vec<AttemptRecord> {
        self.store.attempts(run).await.unwrap()
    }

    /// A connection without a credential.
    pub async fn connection(&self, tenant: i64) -> ConnectionId {
        let new = new_connection(tenant);
        self.store
            .add_connection(&new, None, operator())
            .await
            .unwrap()
    }

    /// A connection with a credential.
    pub async fn connection_with(&self, tenant: i64, payload: &str) -> ConnectionId {
        let seal = |binding: CredentialBinding| Ok(sealed(binding.connection_id, payload));
        let new = new_connection(tenant);
        let added = self.store.add_connection(&new, Some(&seal), operator());
        added.await.unwrap()
    }

    pub async fn set_credential(&self, id: ConnectionId, payload: &str) {
        let set = self
            .store
            .set_credential(id, &sealed(id, payload), operator())
            .await;
        set.unwrap();
    }

    pub async fn disable(&self, id: ConnectionId) {
        let disabled = ConnectionStatus::Disabled;
        let changed = self
            .store
            .set_connection_status(id, disabled, operator())
            .await;
        assert!(changed.unwrap());
    }

    /// The ids of all runs that are listed, newest first.
    pub async fn listed(&self) -> Vec<RunId> {
        let filter = RunFilter {
            limit: 1000,
            ..RunFilter::default()
        };
        let runs = self.store.runs(&filter).await.unwrap();
        runs.into_iter().map(|run| run.id).collect()
    }

    /// Moves a time of a run into the past.
    pub async fn age_run(&self, run: RunId, column: &str, seconds: u32) {
        let row = format!("id = {run}");
        self.age("operation_runs", column, &row, seconds).await;
    }

    /// The number of rows of a table, or of those that a condition behind its name chooses.
    pub async fn count(&self, rows: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {rows}")).await
    }
}

/// What this thread logs from now on, as long as the guard is there.
pub fn logged() -> (tempfile::NamedTempFile, DefaultGuard) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.reopen().unwrap())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

/// The answers to calls that begin at the same moment, through the stores by turns.
pub async fn at_once<T, F>(
    stores: &[Arc<dyn Store>],
    calls: usize,
    call: impl Fn(Arc<dyn Store>, usize) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(calls));
    let tasks: Vec<_> = (0..calls)
        .map(|n| {
            let (barrier, call) = (barrier.clone(), call(stores[n % stores.len()].clone(), n));
            tokio::spawn(async move {
                barrier.wait().await;
                call.await
            })
        })
        .collect();
    let mut answers = Vec::with_capacity(calls);
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

pub fn new_run(connection: i64) -> NewRun {
    NewRun {
        workspace_id: WorkspaceId(1),
        tenant_id: Some(TenantId(7)),
        context: context(connection),
        unless_active: None,
        onboarding_session: None,
    }
}

pub fn check(key: &str, status: CheckStatus, reason: Option<Reason>) -> Check {
    Check {
        key: key.into(),
        title: "A check".into(),
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

/// A completion with the report of these checks.
pub fn finished(
    identity: Identity,
    previous_report_id: Option<RunId>,
    checks: Vec<Check>,
    outcome: Outcome,
) -> Completion {
    let finished = ReportDraft {
        identity,
        generated_at: "2026-01-02T03:04:05Z".parse::<DateTime<Utc>>().unwrap(),
        previous_report_id,
        checks,
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

/// With a report of one check.
fn ended(status: CheckStatus, reason: Option<Reason>, outcome: Outcome) -> Completion {
    let check = check("connection.state", status, reason);
    finished(Identity::default(), None, vec![check], outcome)
}

pub fn succeeded() -> Completion {
    ended(CheckStatus::Pass, None, Outcome::Succeeded)
}

fn any_reason(stage: verifyd::domain::reason::Stage) -> Reason {
    *Reason::ALL.iter().find(|r| r.stage() == stage).unwrap()
}

pub fn failed() -> Completion {
    let reason = any_reason(verifyd::domain::reason::Stage::Provider);
    let mut completion = ended(CheckStatus::Fail, Some(reason), Outcome::Failed);
    completion.failure_summary = vec![FailureEntry {
        check: "connection.state".into(),
        reason_code: reason,
        message: "A message.".into(),
    }];
    completion
}

pub fn blocked() -> Completion {
    let reason = any_reason(verifyd::domain::reason::Stage::Preflight);
    let mut completion = ended(CheckStatus::Fail, Some(reason), Outcome::Blocked);
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
