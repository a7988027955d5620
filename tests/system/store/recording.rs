//! Recording and reading runs, workers, counts.

use crate::store::bed::Bed;
use crate::store::fixtures::{claim, context, failed, heartbeat, succeeded, worker};
use std::sync::Arc;
use tokio::sync::Barrier;
use verifyd::domain::access::Binding;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, RunId, RunStatus, TenantId, WorkspaceId};
use verifyd::ports::store::{NewRun, RunFilter, StoreError};

pub fn new_run(connection: i64) -> NewRun {
    NewRun {
        workspace_id: WorkspaceId(1),
        tenant_id: Some(TenantId(7)),
        context: context(connection),
        unless_active: None,
        onboarding_session: None,
    }
}

pub fn everything() -> RunFilter {
    RunFilter {
        limit: 1000,
        ..RunFilter::default()
    }
}

pub async fn a_recorded_run_is_queued_and_delivered(bed: &Bed) {
    let recorded = bed.store.record(&new_run(1)).await.unwrap();
    assert!(recorded.created);
    let run = bed.store.run(recorded.run_id).await.unwrap().unwrap();
    assert_eq!(run.run_type, RUN_TYPE);
    assert_eq!(run.status, RunStatus::Queued);
    assert_eq!(
        (run.workspace_id, run.tenant_id),
        (Some(WorkspaceId(1)), Some(TenantId(7)))
    );
    assert_eq!(run.context, context(1));
    assert_eq!(
        (run.outcome, run.started_at, run.completed_at),
        (None, None, None)
    );
    assert_eq!(run.failure_summary, serde_json::json!([]));
    assert!(run.created_at.is_some());
    let deliveries = format!(
        "SELECT count(*) FROM {} WHERE delivered_at IS NOT NULL",
        bed.own("run_deliveries")
    );
    assert_eq!(bed.number(&deliveries).await, 1);
    let platform = NewRun {
        tenant_id: None,
        ..new_run(1)
    };
    let id = bed.store.record(&platform).await.unwrap().run_id;
    assert_eq!(bed.store.run(id).await.unwrap().unwrap().tenant_id, None);
}

pub async fn several_runs_are_recorded_in_their_order_or_none(bed: &Bed) {
    let mut several: Vec<NewRun> = (1..=30).rev().map(new_run).collect();
    several[4].tenant_id = None;
    let ids = bed.store.record_many(&several).await.unwrap();
    assert_eq!(ids.len(), several.len());
    assert!(ids.is_sorted());
    for (id, new) in ids.iter().zip(&several) {
        let run = bed.store.run(*id).await.unwrap().unwrap();
        assert_eq!(run.status, RunStatus::Queued);
        assert_eq!(run.context, new.context);
        assert_eq!(run.workspace_id, Some(new.workspace_id));
        assert_eq!(run.tenant_id, new.tenant_id);
        assert!(run.created_at.is_some());
    }
    let deliveries = format!(
        "SELECT count(*) FROM {} WHERE delivered_at IS NOT NULL",
        bed.own("run_deliveries")
    );
    assert_eq!(bed.number(&deliveries).await, 30);
    assert_eq!(bed.store.record_many(&[]).await.unwrap(), []);

    several[29].unless_active = Some(ConnectionId(1));
    let refused = bed.store.record_many(&several).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(bed.store.counts().await.unwrap().queued, 30);
}

pub async fn unless_active_returns_the_active_run(bed: &Bed) {
    let once = |connection| NewRun {
        unless_active: Some(ConnectionId(connection)),
        ..new_run(connection)
    };
    let first = bed.store.record(&once(1)).await.unwrap();
    let again = bed.store.record(&once(1)).await.unwrap();
    assert_eq!((again.run_id, again.created), (first.run_id, false));
    // Another connection, also one whose id begins alike.
    for other in [2, 11] {
        assert!(bed.store.record(&once(other)).await.unwrap().created);
    }
    let held = claim(&bed.store, first.run_id, "w1").await;
    assert_eq!(
        bed.store.record(&once(1)).await.unwrap().run_id,
        first.run_id
    );
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    // Another type does not count, an id written as a text does.
    bed.insert("backup.restore", "queued", &context(1)).await;
    let mut text = context(1);
    text["provider_connection_id"] = serde_json::json!("1");
    let third = bed.insert(RUN_TYPE, "queued", &text).await;
    assert_eq!(bed.store.record(&once(1)).await.unwrap().run_id, third);
    // The newest of several.
    let newest = bed.store.record(&new_run(1)).await.unwrap();
    assert_eq!(
        bed.store.record(&once(1)).await.unwrap().run_id,
        newest.run_id
    );
    // What nobody will ever claim is not waited for.
    let invalid = format!(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context)
         VALUES (-7, 1, 7, '{RUN_TYPE}', 'queued', '{}')",
        context(3).to_string().replace('\'', "''")
    );
    bed.exec(&invalid).await;
    assert!(bed.store.record(&once(3)).await.unwrap().created);
}

pub async fn unless_active_under_many_callers_records_one(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 1..=5 {
        let barrier = Arc::new(Barrier::new(20));
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let (store, barrier) = (stores[n % 2].clone(), barrier.clone());
                let new = NewRun {
                    unless_active: Some(ConnectionId(round)),
                    ..new_run(round)
                };
                tokio::spawn(async move {
                    barrier.wait().await;
                    store.record(&new).await.unwrap()
                })
            })
            .collect();
        let mut created = 0;
        let mut ids = std::collections::BTreeSet::new();
        for task in tasks {
            let recorded = task.await.unwrap();
            created += usize::from(recorded.created);
            ids.insert(recorded.run_id);
        }
        assert_eq!((created, ids.len()), (1, 1), "round {round}");
    }
    assert_eq!(bed.store.runs(&everything()).await.unwrap().len(), 5);
}

async fn ids(bed: &Bed, filter: RunFilter) -> Vec<RunId> {
    let runs = bed.store.runs(&filter).await.unwrap();
    runs.into_iter().map(|run| run.id).collect()
}

pub async fn runs_are_paged_and_filtered(bed: &Bed) {
    let done = bed
        .insert_for(TenantId(7), RUN_TYPE, "queued", &context(1))
        .await;
    let broken = bed
        .insert_for(TenantId(8), RUN_TYPE, "queued", &context(2))
        .await;
    let running = bed
        .insert_for(TenantId(8), RUN_TYPE, "queued", &context(1))
        .await;
    let queued = bed
        .insert_for(TenantId(7), RUN_TYPE, "queued", &context(12))
        .await;
    bed.insert_for(TenantId(7), "backup.restore", "queued", &context(1))
        .await;
    let held = claim(&bed.store, done, "w1").await;
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    let held = claim(&bed.store, broken, "w1").await;
    assert!(bed.store.complete(&held, &failed()).await.unwrap());
    claim(&bed.store, running, "w1").await;

    assert_eq!(
        ids(bed, everything()).await,
        [queued, running, broken, done]
    );
    let first = RunFilter {
        limit: 3,
        ..RunFilter::default()
    };
    assert_eq!(ids(bed, first.clone()).await, [queued, running, broken]);
    let second = RunFilter {
        before: Some(broken),
        ..first
    };
    assert_eq!(ids(bed, second).await, [done]);
    let by_status = |status| RunFilter {
        status: Some(status),
        ..everything()
    };
    assert_eq!(
        ids(bed, by_status(RunStatus::Completed)).await,
        [broken, done]
    );
    assert_eq!(ids(bed, by_status(RunStatus::Running)).await, [running]);
    let by_outcome = RunFilter {
        outcome: Some(Outcome::Failed),
        ..everything()
    };
    assert_eq!(ids(bed, by_outcome).await, [broken]);
    let by_connection = RunFilter {
        connection: Some(ConnectionId(1)),
        ..everything()
    };
    assert_eq!(ids(bed, by_connection).await, [running, done]);
    let bound = |workspace, tenant| RunFilter {
        binding: Binding {
            workspace_id: Some(WorkspaceId(workspace)),
            tenant_id: tenant,
        },
        ..everything()
    };
    let by_tenant = RunFilter {
        tenant: Some(TenantId(8)),
        ..everything()
    };
    assert_eq!(ids(bed, by_tenant).await, [running, broken]);
    assert_eq!(
        ids(bed, bound(1, Some(TenantId(8)))).await,
        [running, broken]
    );
    assert_eq!(
        ids(bed, bound(1, None)).await,
        [queued, running, broken, done]
    );
    assert_eq!(ids(bed, bound(2, None)).await, []);
    let all = RunFilter {
        binding: bound(1, Some(TenantId(7))).binding,
        status: Some(RunStatus::Completed),
        outcome: Some(Outcome::Succeeded),
        connection: Some(ConnectionId(1)),
        tenant: Some(TenantId(7)),
        before: Some(RunId(i64::MAX)),
        limit: 1,
    };
    assert_eq!(ids(bed, all).await, [done]);
}

pub async fn counts_and_the_oldest(bed: &Bed) {
    let empty = bed.store.counts().await.unwrap();
    assert_eq!(
        (empty.queued, empty.running, empty.oldest_queued_seconds),
        (0, 0, None)
    );
    let old = bed.queued().await;
    bed.queued().await;
    let running = bed.queued().await;
    bed.age("operation_runs", "created_at", &format!("id = {old}"), 5000)
        .await;
    bed.age(
        "operation_runs",
        "created_at",
        &format!("id = {running}"),
        90_000,
    )
    .await;
    claim(&bed.store, running, "w1").await;
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running), (2, 1));
    let age = counts.oldest_queued_seconds.unwrap();
    assert!((5000.0..90_000.0).contains(&age), "{age}");
}

pub async fn workers_beat_and_retire(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    bed.store.heartbeat(&heartbeat("w2")).await.unwrap();
    let first = bed.store.workers().await.unwrap().remove(0);
    assert_eq!(
        (first.worker_id.as_str(), first.version.as_str()),
        ("w1", "0.1.0")
    );
    assert_eq!((first.concurrency, first.in_flight), (8, 1));
    let mut busy = heartbeat("w1");
    busy.in_flight = 5;
    bed.store.heartbeat(&busy).await.unwrap();
    let later = bed.store.workers().await.unwrap().remove(0);
    assert_eq!((later.in_flight, later.started_at), (5, first.started_at));
    assert!(later.beat_at >= first.beat_at);
    bed.age(&bed.own("workers"), "beat_at", "worker_id = 'w1'", 90_000)
        .await;
    bed.store.retire(&worker("nobody")).await.unwrap();
    let names: Vec<_> = bed.store.workers().await.unwrap();
    assert_eq!(names.len(), 1);
    bed.store.retire(&worker("w2")).await.unwrap();
    assert_eq!(bed.store.workers().await.unwrap(), []);
}

/// Another application's table may hold it.
pub async fn a_status_that_does_not_exist_is_named(bed: &Bed) {
    let run = bed.queued().await;
    bed.force_status(run, "foo").await;
    assert_eq!(
        bed.store.run(run).await.unwrap(),
        None,
        "it is no run to show"
    );
    let invalid = bed.store.invalid_runs(100, 100).await.unwrap();
    let [named] = &invalid[..] else {
        panic!("one is named: {invalid:?}")
    };
    assert_eq!((named.operation_run_id, named.column), (run, "status"));
    for part in ["foo", "queued, running, completed"] {
        assert!(named.problem.contains(part), "{named:?}");
    }
}
