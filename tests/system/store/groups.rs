//! Workers of groups of workspaces on one database.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, POLICY, SWEEP, context, new_run, quoted, worker};
use std::sync::Arc;
use verifyd::domain::groups::GroupMembers;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, TenantId, WorkspaceId};
use verifyd::ports::probe::Writing;
use verifyd::ports::store::{ClaimAnswer, NewRun, Store, SweepPolicy, Swept};

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
    let run = delivered(bed, LISTED).await;
    for store in [&eu, &bed.store] {
        assert!(!store.hand_over(run).await.unwrap());
    }
    assert_eq!(sweep(&eu, &SWEEP).await.due, []);
    assert!(rest.hand_over(run).await.unwrap());
    assert_eq!(sweep(&rest, &SWEEP).await.due, []);
    assert_eq!(sweep(&eu, &SWEEP).await.due, [run]);
    let answer = eu.claim(run, &worker("w1"), &POLICY).await.unwrap();
    assert!(answer.claimed().is_some());
    assert!(!rest.hand_over(run).await.unwrap());
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
    let [eu, rest] = stores(bed).await;
    for _ in 0..4 {
        let run = delivered(bed, LISTED).await;
        assert!(rest.hand_over(run).await.unwrap());
    }
    let gone = delivered(bed, 1).await;
    assert!(eu.hand_over(gone).await.unwrap());
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
    let (other, theirs) = (queued(bed, 1, 3).await, queued(bed, LISTED, 4).await);
    for (store, tenant, run) in [(&eu, 4, theirs), (&rest, 3, other)] {
        let found = store.oldest_run_of_each_tenant(None, &[], 10).await;
        let found = found.unwrap().into_iter();
        let found: Vec<_> = found.map(|oldest| (oldest.tenant, oldest.run)).collect();
        assert_eq!(found, [(TenantId(tenant), run)]);
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
