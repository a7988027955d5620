//! How runs look: in progress, completed in every way, acknowledged, and as somebody else left them.

mod acknowledgements;
mod refusals;

use super::diff::DiffState;
use super::report::ReportState;
use super::{
    AcknowledgementView, CheckView, DiffView, OnboardingView, ReportView, RunDetail, RunItem,
    RunView,
};
use crate::domain::acknowledgement::{Acknowledgement, Actor, Surface};
use crate::domain::attempt::{AttemptEnd, AttemptRecord};
use crate::domain::budget::BudgetKey;
use crate::domain::json::Json;
use crate::domain::onboarding::OnboardingSession;
use crate::domain::report::{
    Check, CheckStatus, Identity, NextStep, Overall, ReportDraft, Severity,
};
use crate::domain::run::{OperationRun, Outcome, RUN_TYPE, ReportPresence, RunStatus, RunSummary};
use crate::domain::run_record::{RunRecord, RunWait, SessionRecord, WaitCause};
use crate::domain::{AcknowledgementId, Reason, RunId, SessionId, TenantId, TokenId, WorkspaceId};
use crate::view::acknowledgement::Standing;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

fn at(second: i64) -> DateTime<Utc> {
    "2026-03-04T05:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(second)
}

fn check(key: &str, status: CheckStatus, reason: Option<Reason>, blocking: bool) -> Check {
    Check {
        key: format!("x.{key}"),
        title: format!("Title of {key}"),
        status,
        severity: Severity::High,
        blocking,
        reason_code: reason,
        message: "A message.".into(),
        evidence: Vec::new(),
        next_steps: vec![NextStep {
            label: "Look".into(),
            url: "/look".into(),
        }],
    }
}

fn warning(key: &str) -> Check {
    check(
        key,
        CheckStatus::Warn,
        Some(Reason::PermissionMissing),
        false,
    )
}

fn document(previous: Option<i64>, checks: Vec<Check>) -> Value {
    let finished = ReportDraft {
        identity: Identity::default(),
        generated_at: at(9),
        previous_report_id: previous.map(RunId),
        checks,
    }
    .finish(&[], "/");
    assert_eq!(finished.replaced, None);
    serde_json::from_str(finished.json.get()).unwrap()
}

fn run(
    id: i64,
    status: RunStatus,
    outcome: Option<Outcome>,
    report: Option<Value>,
) -> OperationRun {
    let mut context = json!({
        "provider": "microsoft", "module": "core", "provider_connection_id": 3,
        "target_scope": {"entra_tenant_name": "Contoso"},
    });
    if let Some(report) = report {
        context["verification_report"] = report;
    }
    OperationRun {
        id: RunId(id),
        workspace_id: Some(WorkspaceId(1)),
        tenant_id: Some(TenantId(2)),
        run_type: RUN_TYPE.into(),
        status,
        outcome,
        context: Json::of(&context.to_string()),
        failure_summary: Json::of("[]"),
        created_at: Some(at(0)),
        started_at: None,
        completed_at: (status == RunStatus::Completed).then(|| at(10)),
        shares_id: false,
        repeats_report: false,
    }
}

fn completed(outcome: Outcome, checks: Vec<Check>) -> OperationRun {
    let report = Some(document(None, checks));
    run(5, RunStatus::Completed, Some(outcome), report)
}

fn record(run: OperationRun, attempts: Vec<AttemptRecord>) -> RunRecord {
    RunRecord {
        run,
        attempts,
        acknowledgements: Vec::new(),
        previous: None,
        wait: None,
    }
}

/// What lists read of a run without a report.
fn summary(run: &OperationRun) -> RunSummary {
    RunSummary {
        id: run.id,
        workspace_id: run.workspace_id,
        tenant_id: run.tenant_id,
        status: run.status,
        outcome: run.outcome,
        provider_connection_id: None,
        provider: None,
        module: None,
        display_name: None,
        report: ReportPresence::Pending,
        overall: None,
        fingerprint: None,
        reason_code: None,
        problems: 0,
        created_at: run.created_at,
        started_at: run.started_at,
        completed_at: run.completed_at,
        next_attempt_at: None,
        shares_id: run.shares_id,
    }
}

fn said(id: i64, run: i64, key: &str) -> Acknowledgement {
    Acknowledgement {
        id: AcknowledgementId(id),
        operation_run_id: RunId(run),
        check_key: format!("x.{key}"),
        reason_code: Some("permission_missing".into()),
        reason: "known".into(),
        acknowledged_by: "Ann".into(),
        acknowledged_through: None,
        acknowledged_at: Some(at(20)),
        expires_at: None,
        is_past: false,
        is_withdrawn: false,
        withdrawn_at: None,
        withdrawn_by: None,
        withdrawn_through: None,
    }
}

fn readable(view: &RunView) -> &ReportView {
    match &view.report {
        ReportState::Readable { report } => report,
        other => panic!("{other:?}"),
    }
}

fn problem<'a>(view: &'a RunView, key: &str) -> &'a CheckView {
    let key = format!("x.{key}");
    let found = readable(view).problems.iter().find(|c| c.check.key == key);
    found.unwrap()
}

#[test]
fn runs_in_progress() {
    let queued = RunView::of(&run(5, RunStatus::Queued, None, None), &[], at(30));
    assert_eq!(queued.verdict, "Waiting for a worker.");
    assert_eq!(queued.report, ReportState::Pending);
    assert_eq!((queued.workspace_id, queued.tenant_id), (Some(1), Some(2)));
    assert_eq!(queued.provider_connection_id, Some(3));
    assert_eq!(queued.display_name.as_deref(), Some("Contoso"));
    let running = RunView::of(&run(5, RunStatus::Running, None, None), &[], at(30));
    assert_eq!(running.verdict, "Running.");
    assert_eq!(running.report, ReportState::Pending);
    // A report that is still being written, as other writers of this version may have it.
    let checks = vec![check("a", CheckStatus::Running, None, true), warning("b")];
    let half = run(5, RunStatus::Running, None, Some(document(None, checks)));
    let half = RunView::of(&half, &[], at(30));
    assert_eq!(half.verdict, "Running.");
    assert_eq!(readable(&half).overall, Overall::Running);
    assert_eq!(readable(&half).running.len(), 1);
    // Nothing of a run that is not completed can be acknowledged.
    assert!(!problem(&half, "b").acknowledgeable);
}

#[test]
fn a_blocked_stub() {
    let stub = vec![
        check(
            "connection",
            CheckStatus::Fail,
            Some(Reason::TenantMissing),
            true,
        ),
        check(
            "later",
            CheckStatus::Skip,
            Some(Reason::PermissionMissing),
            true,
        ),
    ];
    let view = RunView::of(&completed(Outcome::Blocked, stub), &[], at(30));
    assert_eq!(
        view.verdict,
        "Not checked: the operation run names no tenant."
    );
    assert_eq!(readable(&view).skipped.len(), 1);
    assert!(problem(&view, "connection").acknowledgeable);
}

#[test]
fn completed_without_a_report_that_can_be_read() {
    let of = |report| {
        let run = run(5, RunStatus::Completed, Some(Outcome::Failed), report);
        RunView::of(&run, &[said(1, 5, "a")], at(30))
    };
    let missing = of(None);
    assert_eq!(missing.verdict, "Completed as failed without a report.");
    assert_eq!(missing.report, ReportState::Missing);
    // What was acknowledged does not disappear with the report.
    assert_eq!(missing.other_acknowledgements.len(), 1);
    for (version, known) in [
        ("1.4.0", false),
        ("2.0.0", false),
        ("1.5.9", true),
        ("new", true),
    ] {
        let mut document = document(None, vec![warning("a")]);
        document["schema_version"] = json!(version);
        document["extra"] = json!(true);
        let view = of(Some(document));
        match &view.report {
            ReportState::OtherVersion { schema_version } => {
                assert!(!known, "{version}");
                assert_eq!(schema_version, version);
                let wanted = format!(
                    "Completed as failed; its report is of version {version}, which this verifyd \
                     (1.5.0) does not read."
                );
                assert_eq!(view.verdict, wanted);
            }
            ReportState::Unreadable { problems } => {
                assert!(known, "{version}");
                assert!(!problems.is_empty());
                assert_eq!(
                    view.verdict,
                    "Completed as failed, but its report cannot be read."
                );
            }
            other => panic!("{version}: {other:?}"),
        }
    }
    for corrupt in [
        json!("text"),
        json!([]),
        json!({}),
        json!({"schema_version": 1.4}),
    ] {
        let view = of(Some(corrupt));
        assert!(
            matches!(view.report, ReportState::Unreadable { .. }),
            "{view:?}"
        );
    }
    let nameless = run(5, RunStatus::Completed, None, None);
    let view = RunView::of(&nameless, &[], at(30));
    assert_eq!(view.verdict, "Completed without a report.");
}

#[test]
fn a_report_that_does_not_go_with_its_row() {
    let verdict = |outcome, checks| {
        let report = Some(document(None, checks));
        RunView::of(&run(5, RunStatus::Completed, outcome, report), &[], at(30)).verdict
    };
    let fine = || vec![check("a", CheckStatus::Pass, None, true)];
    assert_eq!(
        verdict(None, vec![warning("a")]),
        "Completed without an outcome; its report says needs attention."
    );
    assert_eq!(
        verdict(Some(Outcome::Failed), fine()),
        "Completed as failed, but its report names no problem."
    );
    let failed = |blocking| {
        let check = check(
            "a",
            CheckStatus::Fail,
            Some(Reason::ResourceNotFound),
            blocking,
        );
        verdict(Some(Outcome::Failed), vec![check])
    };
    assert!(failed(true).starts_with("The connection does not work: "));
    assert!(
        failed(false)
            .starts_with("The connection answers, but not every call of the module works: ")
    );
    assert_eq!(
        verdict(
            Some(Outcome::Succeeded),
            vec![check("a", CheckStatus::Running, None, true)]
        ),
        "Completed as succeeded, but its report is not finished."
    );
    assert_eq!(
        verdict(Some(Outcome::Succeeded), fine()),
        "The connection works and has every permission that it needs."
    );
}

fn attempt(number: i32, from: i64, end: Option<(i64, AttemptEnd)>) -> AttemptRecord {
    AttemptRecord {
        attempt: number,
        worker_id: "w1".into(),
        counted: end.is_none_or(|(_, why)| why.counts()),
        claimed_at: at(from),
        ended_at: end.map(|(to, _)| at(to)),
        end_reason: end.map(|(_, why)| why),
        result_refusal: None,
        requeue_refusal: None,
    }
}

#[test]
fn the_timeline_of_a_run() {
    let queued = record(run(5, RunStatus::Queued, None, None), vec![]);
    let t = RunDetail::of(&queued, at(4)).timeline;
    assert_eq!(
        (t.waited_ms, t.worked_ms, t.claimed_at),
        (Some(4_000), None, None)
    );
    let attempts = vec![
        attempt(1, 2, Some((3, AttemptEnd::Throttled))),
        attempt(2, 6, Some((10, AttemptEnd::Completed))),
    ];
    let done = record(completed(Outcome::Succeeded, vec![warning("a")]), attempts);
    let t = RunDetail::of(&done, at(99)).timeline;
    assert_eq!((t.recorded_at, t.claimed_at), (Some(at(0)), Some(at(2))));
    assert_eq!(t.completed_at, Some(at(10)));
    assert_eq!((t.waited_ms, t.worked_ms), (Some(2_000), Some(8_000)));
    assert_eq!(t.attempts[0].took_ms, 1_000);
    assert!(!t.attempts[0].counted && t.attempts[1].counted);
    assert_eq!(t.attempts[1].end, "completed the run");
    let running = run(5, RunStatus::Running, None, None);
    let running = record(running, vec![attempt(1, 2, None)]);
    let t = RunDetail::of(&running, at(5)).timeline;
    assert_eq!((t.waited_ms, t.worked_ms), (Some(2_000), Some(3_000)));
    assert_eq!(
        (t.attempts[0].took_ms, t.attempts[0].end.as_str()),
        (3_000, "in progress")
    );
    // A clock ahead of the database's, and a row without times.
    let mut strange = run(5, RunStatus::Running, None, None);
    strange.created_at = Some(at(50));
    let t = RunDetail::of(&record(strange.clone(), vec![attempt(1, 2, None)]), at(1)).timeline;
    assert_eq!((t.waited_ms, t.worked_ms), (Some(0), Some(0)));
    strange.created_at = None;
    let t = RunDetail::of(&record(strange, vec![]), at(1)).timeline;
    assert_eq!((t.waited_ms, t.worked_ms), (None, None));
}

#[test]
fn a_run_that_is_not_due_waits_for_its_next_attempt() {
    let released = OperationRun {
        started_at: Some(at(3)),
        ..run(5, RunStatus::Queued, None, None)
    };
    let (due, later) = (
        "Waiting for a worker.",
        "Next attempt at 2026-03-04 05:00:20 UTC.",
    );
    let mut listed = summary(&released);
    assert_eq!(RunItem::from(listed.clone()).verdict, due);
    listed.next_attempt_at = Some(at(20));
    assert_eq!(RunItem::from(listed).verdict, later);
    let mut detailed = record(released, vec![]);
    assert_eq!(RunDetail::of(&detailed, at(4)).run.verdict, due);
    detailed.wait = Some(RunWait {
        until: at(20),
        cause: WaitCause::Failed,
        budget: None,
        database_refusal: None,
    });
    assert_eq!(RunDetail::of(&detailed, at(4)).run.verdict, later);
}

#[test]
fn a_run_that_waits_for_its_provider_says_for_how_long() {
    let mut waiting = record(run(5, RunStatus::Queued, None, None), vec![]);
    let plain = RunDetail::of(&waiting, at(4));
    assert_eq!(plain.waiting, None);
    let mut wait = RunWait {
        until: at(20),
        cause: WaitCause::Throttled,
        budget: None,
        database_refusal: None,
    };
    waiting.wait = Some(wait.clone());
    let shown = RunDetail::of(&waiting, at(4));
    let sentence = "Waiting because the provider throttles: about 16 s.";
    assert_eq!(shown.run.verdict, sentence);
    wait.budget = Some(BudgetKey {
        cloud: "global".into(),
        client_id: Uuid::nil(),
    });
    waiting.wait = Some(wait);
    let shown = RunDetail::of(&waiting, at(21));
    let sentence = "Waiting because the provider throttles the application \
                    00000000-0000-0000-0000-000000000000: about 1 s.";
    assert_eq!(shown.run.verdict, sentence);
    let json = serde_json::to_value(shown.waiting).unwrap();
    let wanted = json!({
        "until": "2026-03-04T05:00:20Z", "cause": "throttled", "client_id": Uuid::nil().to_string(), "cloud": "global",
        "database_refusal": null,
    });
    assert_eq!(json, wanted);
}

#[test]
fn a_run_whose_id_others_have_is_not_waiting() {
    for status in [RunStatus::Queued, RunStatus::Running] {
        let mut sharing = run(5, status, None, None);
        sharing.shares_id = true;
        let item = RunItem::from(summary(&sharing));
        assert!(
            item.shares_id && item.verdict.contains("other runs have its id"),
            "{}",
            item.verdict
        );
        let shown = RunDetail::of(&record(sharing, vec![]), at(4)).run;
        assert!(shown.shares_id);
        assert_eq!(shown.verdict, item.verdict);
    }
}

#[test]
fn the_comparison_with_the_previous_report() {
    let succeeded = |id, previous, checks| {
        let report = Some(document(previous, checks));
        run(id, RunStatus::Completed, Some(Outcome::Succeeded), report)
    };
    let before = succeeded(4, None, vec![warning("a"), warning("b"), warning("c")]);
    let better = check("b", CheckStatus::Pass, None, false);
    let now = succeeded(5, Some(4), vec![warning("a"), better, warning("d")]);
    let diff = DiffView::of(&now, Some(&before));
    assert_eq!((diff.state, diff.unchanged), (DiffState::Compared, false));
    assert_eq!(diff.previous_report_id, Some(4));
    let counts = diff.counts;
    assert_eq!(
        (counts.new, counts.changed, counts.gone, counts.unchanged),
        (1, 1, 1, 1)
    );
    assert_eq!(diff.checks.last().unwrap().title(), "Title of c");
    let mut stranger = before.clone();
    stranger.tenant_id = Some(TenantId(9));
    let mut corrupt = before.clone();
    let mut context = corrupt.context.value();
    context["verification_report"]["checks"] = json!(1);
    corrupt.context = Json::of(&context.to_string());
    let pending = run(5, RunStatus::Queued, None, None);
    for (case, run, previous, state) in [
        ("first", &before, None, DiffState::First),
        ("gone", &now, None, DiffState::PreviousGone),
        ("foreign", &now, Some(&stranger), DiffState::PreviousGone),
        (
            "corrupt",
            &now,
            Some(&corrupt),
            DiffState::PreviousUnreadable,
        ),
        ("itself corrupt", &corrupt, None, DiffState::Unreadable),
        ("pending", &pending, None, DiffState::NoReport),
    ] {
        assert_eq!(DiffView::of(run, previous).state, state, "{case}");
    }
}

#[test]
fn an_onboarding_session() {
    let session = |state: Value| OnboardingSession {
        id: SessionId(8),
        workspace_id: Some(WorkspaceId(1)),
        tenant_id: None,
        state: Json::of(&state.to_string()),
        problem: None,
    };
    let none = SessionRecord {
        session: session(json!({})),
        run: None,
    };
    let view = OnboardingView::of(&none, at(30));
    assert_eq!(view.verdict, "No check has been started for this session.");
    let gone = SessionRecord {
        session: session(json!({"verification_operation_run_id": 77})),
        run: None,
    };
    let view = OnboardingView::of(&gone, at(30));
    assert_eq!(view.operation_run_id, Some(77));
    assert!(view.verdict.contains("run 77"), "{}", view.verdict);
    let pointed = SessionRecord {
        session: session(json!({"verification_operation_run_id": 5, "provider_connection_id": 3})),
        run: Some(record(run(5, RunStatus::Queued, None, None), vec![])),
    };
    let view = OnboardingView::of(&pointed, at(30));
    assert_eq!(view.verdict, "Waiting for a worker.");
    assert_eq!(view.provider_connection_id, Some(3));
    assert_eq!(view.run.unwrap().timeline.waited_ms, Some(30_000));
}
