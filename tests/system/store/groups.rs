//! Workers of groups of workspaces on one database.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, POLICY, SWEEP, context, new_run, quoted, worker};
use crate::store::migrate_beside_another_application::beside;
use std::sync::Arc;
use std::time::Duration;
use verifyd::domain::groups::GroupMembers;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, TenantId, WorkspaceId};
use verifyd::ports::probe::Writing;
use verifyd::ports::store::{AttemptEnd, ClaimAnswer, NewRun, Store, SweepPolicy, Swept};

/// The workspace of the group `eu`; all others are the default group.
const LISTED: i64 = 2;

const REPEAT: SweepPolicy = SweepPolicy {
    redeliver: true,
    ..SWEEP
};

fn members(has_listed: bool) -> GroupMembers {
    GroupMembers {
        listed: vec![LISTED],
        has_listed,
    }
}

/// Stores of workers of the group `eu` and of the default one.
async fn stores(bed: &Bed) -> [Arc<dyn Store>; 2] {
    let (eu, rest) = (bed.replica().await, bed.replica().await);
    eu.serve_group(members(true));
    rest.serve_group(members(false));
    [eu, rest]
}

/// A bare row of this workspace and tenant.
async fn queued(bed: &Bed, workspace: i64, tenant: i64) -> RunId {
    let context = quoted(&context(1));
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context)
         VALUES ({workspace}, {tenant}, '{RUN_TYPE}', 'queued', '{context}')"
    ))
    .await;
    RunId(bed.number("SELECT max(id) FROM operation_runs").await)
}

/// A run of this workspace that counts as delivered.
async fn delivered(bed: &Bed, workspace: i64) -> RunId {
    let new = NewRun {
        workspace_id: WorkspaceId(workspace),
        ..new_run(1)
    };
    bed.store.record(&new).await.unwrap().run_id
}

async fn sweep(store: &Arc<dyn Store>, policy: &SweepPolicy) -> Swept {
    let swept = store.sweep(policy).await.unwrap();
    swept.expect("nobody else sweeps")
}

pub async fn each_group_claims_and_dispatches_its_own_runs(bed: &Bed) {
    let [eu, rest] = stores(bed).await;
    let theirs = queued(bed, LISTED, 7).await;
    let others = [queued(bed, 1, 7).await, queued(bed, 3, 7).await];
    for policy in [&POLICY, &ISOLATED] {
        for (store, run) in [(&eu, others[0]), (&rest, theirs)] {
            let answer = store.claim(run, &worker("w1"), policy).await.unwrap();
            assert!(matches!(answer, ClaimAnswer::NotClaimable), "{answer:?}");
        }
    }
    for (has_listed, queued) in [(true, 1), (false, 2)] {
        let counts = bed.store.counts_of_group(&members(has_listed)).await;
        assert_eq!(counts.unwrap().queued, queued);
    }
    assert_eq!(sweep(&eu, &SWEEP).await.due, [theirs]);
    assert_eq!(sweep(&rest, &SWEEP).await.due, others);
    for (store, run) in [(&eu, theirs), (&rest, others[0])] {
        let answer = store.claim(run, &worker("w1"), &POLICY).await.unwrap();
        assert!(answer.claimed().is_some());
    }
}

pub async fn a_hint_of_another_group_is_handed_over(bed: &Bed) {
    let [eu, rest] = stores(bed).await;
    let (run, own) = (delivered(bed, LISTED).await, delivered(bed, 1).await);
    let hinted = [own, run, RunId(own.0 + 1)];
    assert_eq!(bed.store.hand_over(&hinted).await.unwrap(), []);
    assert_eq!(eu.hand_over(&[run]).await.unwrap(), []);
    assert_eq!(sweep(&eu, &SWEEP).await.due, []);
    assert_eq!(rest.hand_over(&hinted).await.unwrap(), [run]);
    // Nothing that a sweep would read while its group has no workers.
    let left = format!("{} WHERE run_id = {run}", bed.own("run_deliveries"));
    assert_eq!(bed.count(&left).await, 0);
    assert_eq!(sweep(&rest, &SWEEP).await.due, []);
    assert_eq!(sweep(&eu, &SWEEP).await.due, [run]);
    let answer = eu.claim(run, &worker("w1"), &POLICY).await.unwrap();
    let held = answer.claimed().expect("it is this group's");
    assert_eq!(rest.hand_over(&hinted).await.unwrap(), []);

    // What it waits for is not over.
    let later = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, later).await);
    assert_eq!(rest.hand_over(&hinted).await.unwrap(), [run]);
    assert_eq!(sweep(&eu, &SWEEP).await.due, []);

    // It has been due since its wait ended, not since it was recorded, also after the next hint.
    bed.age_run(run, "created_at", 90_000).await;
    let row = format!("run_id = {run}");
    let wait_ended = 3600 + 5000;
    bed.age(&bed.own("run_deliveries"), "not_before", &row, wait_ended)
        .await;
    assert_eq!(sweep(&eu, &SWEEP).await.due, [run]);
    assert_eq!(rest.hand_over(&hinted).await.unwrap(), [run]);
    let counts = bed.store.counts_of_group(&members(true)).await.unwrap();
    let age = counts.oldest_queued_seconds.unwrap();
    assert!((4999.0..90_000.0).contains(&age), "{age}");
    assert_eq!(sweep(&eu, &SWEEP).await.due, [run]);
}

pub async fn waiting_runs_of_other_groups_hold_up_no_sweep(bed: &Bed) {
    let [eu, _] = stores(bed).await;
    for _ in 0..4 {
        queued(bed, 1, 7).await;
        delivered(bed, 1).await;
    }
    let (bare, lost) = (queued(bed, LISTED, 7).await, delivered(bed, LISTED).await);
    bed.age(&bed.own("run_deliveries"), "delivered_at", "1 = 1", 301)
        .await;
    bed.age("operation_runs", "created_at", "1 = 1", 302).await;
    let mut policy = SweepPolicy {
        window: 3,
        ..REPEAT
    };
    let mut found = Vec::new();
    // Ten runs in windows of three.
    for _ in 0..4 {
        let swept = sweep(&eu, &policy).await;
        policy.from = swept.next;
        found.extend(swept.due);
    }
    assert_eq!(found, [bare, lost]);
}

pub async fn a_dead_workers_run_is_queued_by_any_group_and_dispatched_by_its_own(bed: &Bed) {
    let [eu, rest] = stores(bed).await;
    let run = delivered(bed, LISTED).await;
    let answer = eu.claim(run, &worker("dead"), &POLICY).await.unwrap();
    assert!(answer.claimed().is_some());
    let swept = sweep(&rest, &SWEEP).await;
    assert_eq!((swept.reclaimed, swept.due), (vec![run], vec![]));
    assert_eq!(sweep(&rest, &SWEEP).await.due, []);
    assert_eq!(sweep(&eu, &SWEEP).await.due, [run]);
}

pub async fn a_group_without_workers_keeps_no_delivery_of_a_run_that_is_gone(bed: &Bed) {
    let [_, rest] = stores(bed).await;
    for _ in 0..4 {
        let run = delivered(bed, LISTED).await;
        bed.store.mark_undispatched(&[run]).await.unwrap();
    }
    let gone = delivered(bed, 1).await;
    bed.store.mark_undispatched(&[gone]).await.unwrap();
    bed.delete_run(gone).await;
    let mut policy = SweepPolicy {
        batch: 2,
        window: 3,
        ..SWEEP
    };
    // Ahead of the cursor, behind it from the first run on, and behind the third one.
    for _ in 0..3 {
        let swept = sweep(&rest, &policy).await;
        assert_eq!(swept.due, []);
        policy.from = swept.next;
    }
    let deliveries = bed.own("run_deliveries");
    let left = format!("{deliveries} WHERE run_id = {gone}");
    assert_eq!(bed.count(&left).await, 0);
    assert_eq!(bed.count(&deliveries).await, 4);
}

pub async fn fair_queuing_chooses_runs_of_the_group(bed: &Bed) {
    let [eu, rest] = stores(bed).await;
    for (workspace, tenant) in [(1, 3), (LISTED, 4)] {
        bed.exec(&format!(
            "INSERT INTO provider_connections (workspace_id, tenant_id, provider, status)
             VALUES ({workspace}, {tenant}, 'microsoft', 'enabled')"
        ))
        .await;
    }
    let others = vec![(3, queued(bed, 1, 3).await), (4, queued(bed, 1, 4).await)];
    for _ in 0..10 {
        queued(bed, 1, 4).await;
    }
    let theirs = vec![(4, queued(bed, LISTED, 4).await)];
    for (store, wanted) in [(&eu, theirs), (&rest, others)] {
        let found = store.oldest_run_of_each_tenant(None, &[], 10).await;
        let found = found.unwrap().runs.into_iter();
        let found: Vec<_> = found.map(|oldest| (oldest.tenant.0, oldest.run)).collect();
        assert_eq!(found, wanted);
    }
}

pub async fn tenants_of_other_groups_are_passed_a_part_at_a_time(bed: &Bed) {
    const OTHERS: i64 = 1_030;
    let [eu, _] = stores(bed).await;
    let tenants = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n <= {OTHERS})"
    );
    bed.exec(&format!(
        "{tenants} INSERT INTO provider_connections (workspace_id, tenant_id, provider, status)
         SELECT 1, n, 'microsoft', 'enabled' FROM n;
         {tenants} INSERT INTO operation_runs (workspace_id, tenant_id, type, status)
         SELECT CASE WHEN n > {OTHERS} THEN {LISTED} ELSE 1 END, n, '{RUN_TYPE}', 'queued' FROM n"
    ))
    .await;
    let found = eu.oldest_run_of_each_tenant(None, &[], 10).await.unwrap();
    assert_eq!((found.runs, found.next), (vec![], Some(TenantId(1_024))));
    let found = eu.oldest_run_of_each_tenant(found.next, &[], 10).await;
    let found = found.unwrap();
    let theirs = OTHERS + 1;
    assert_eq!(found.runs.len(), 1);
    assert_eq!(found.runs[0].tenant, TenantId(theirs));
    assert_eq!(found.next, None);
}

/// Another application's table may have such runs.
#[tokio::test]
async fn a_run_without_a_workspace_is_of_the_default_group() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    bed.exec("ALTER TABLE operation_runs ALTER workspace_id DROP NOT NULL")
        .await;
    let context = quoted(&context(1));
    bed.exec(&format!(
        "INSERT INTO operation_runs (tenant_id, type, status, context)
         VALUES (7, '{RUN_TYPE}', 'queued', '{context}')"
    ))
    .await;
    let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let [eu, rest] = stores(&bed).await;
    assert_eq!(sweep(&eu, &SWEEP).await.due, []);
    assert_eq!(sweep(&rest, &SWEEP).await.due, [run]);
    for (store, is_theirs) in [(&eu, false), (&rest, true)] {
        let answer = store.claim(run, &worker("w1"), &POLICY).await.unwrap();
        assert_eq!(answer.claimed().is_some(), is_theirs);
    }
}

/// What is tried is not claimed.
pub async fn runs_of_any_group_show_whether_writing_works(bed: &Bed) {
    let [eu, rest] = stores(bed).await;
    bed.connection(7).await;
    queued(bed, LISTED, 7).await;
    for store in [eu, rest] {
        let tried = store.try_writing().await.unwrap();
        assert!(matches!(tried, Writing::Accepted { .. }), "{tried:?}");
    }
}
