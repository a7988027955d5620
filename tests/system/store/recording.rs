//! Recording and reading runs, workers, counts.

use crate::store::bed::Bed;
use crate::store::fixtures::{
    at_once, bound, context, failed, heartbeat, new_run, quoted, succeeded, worker,
};
use std::collections::BTreeSet;
use std::time::Duration;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, RunId, RunStatus, TenantId, WorkspaceId};
use verifyd::ports::store::{AttemptEnd, NewRun, RunFilter, StoreError};

pub fn everything() -> RunFilter {
    RunFilter {
        limit: 1000,
        ..RunFilter::default()
    }
}

pub async fn a_recorded_run_is_queued_and_delivered(bed: &Bed) {
    let recorded = bed.store.record(&new_run(1)).await.unwrap();
    assert!(recorded.created);
    let run = bed.run(recorded.run_id).await;
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
        "{} WHERE delivered_at IS NOT NULL",
        bed.own("run_deliveries")
    );
    assert_eq!(bed.count(&deliveries).await, 1);
    let platform = NewRun {
        tenant_id: None,
        ..new_run(1)
    };
    let id = bed.store.record(&platform).await.unwrap().run_id;
    assert_eq!(bed.run(id).await.tenant_id, None);
}

pub async fn several_runs_are_recorded_in_their_order_or_none(bed: &Bed) {
    let mut several: Vec<NewRun> = (1..=30).rev().map(new_run).collect();
    several[4].tenant_id = None;
    let ids = bed.store.record_many(&several).await.unwrap();
    assert_eq!(ids.len(), several.len());
    assert!(ids.is_sorted());
    for (id, new) in ids.iter().zip(&several) {
        let run = bed.run(*id).await;
        assert_eq!(run.status, RunStatus::Queued);
        assert_eq!(run.context, new.context);
        assert_eq!(run.workspace_id, Some(new.workspace_id));
        assert_eq!(run.tenant_id, new.tenant_id);
        assert!(run.created_at.is_some());
    }
    let deliveries = format!(
        "{} WHERE delivered_at IS NOT NULL",
        bed.own("run_deliveries")
    );
    assert_eq!(bed.count(&deliveries).await, 30);
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
    let held = bed.claim(first.run_id, "w1").await;
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
        quoted(&context(3))
    );
    bed.exec(&invalid).await;
    assert!(bed.store.record(&once(3)).await.unwrap().created);
}

pub async fn unless_active_under_many_callers_records_one(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 1..=5 {
        let recorded = at_once(&stores, 20, |store, _| async move {
            let new = NewRun {
                unless_active: Some(ConnectionId(round)),
                ..new_run(round)
            };
            store.record(&new).await.unwrap()
        })
        .await;
        let created = recorded.iter().filter(|recorded| recorded.created).count();
        let ids: BTreeSet<RunId> = recorded.iter().map(|recorded| recorded.run_id).collect();
        assert_eq!((created, ids.len()), (1, 1), "round {round}");
    }
    assert_eq!(bed.store.runs(&everything()).await.unwrap().len(), 5);
}

pub async fn runs_are_paged_and_filtered(bed: &Bed) {
    let done = bed.queued_for(7, 1).await;
    let broken = bed.queued_for(8, 2).await;
    let running = bed.queued_for(8, 1).await;
    let queued = bed.queued_for(7, 12).await;
    bed.insert_for(TenantId(7), "backup.restore", "queued", &context(1))
        .await;
    bed.complete(done, &succeeded()).await;
    bed.complete(broken, &failed()).await;
    bed.claim(running, "w1").await;

    type Narrow<'a> = &'a dyn Fn(&mut RunFilter);
    let all = RunFilter {
        binding: bound(1, Some(7)),
        status: Some(RunStatus::Completed),
        outcome: Some(Outcome::Succeeded),
        connection: Some(ConnectionId(1)),
        tenant: Some(TenantId(7)),
        before: Some(RunId(i64::MAX)),
        limit: 1,
    };
    let cases: [(Narrow, &[RunId]); 12] = [
        (&|_| {}, &[queued, running, broken, done]),
        (&|f| f.limit = 3, &[queued, running, broken]),
        (&|f| f.before = Some(broken), &[done]),
        (&|f| f.status = Some(RunStatus::Completed), &[broken, done]),
        (&|f| f.status = Some(RunStatus::Running), &[running]),
        (&|f| f.outcome = Some(Outcome::Failed), &[broken]),
        (&|f| f.connection = Some(ConnectionId(1)), &[running, done]),
        (&|f| f.tenant = Some(TenantId(8)), &[running, broken]),
        (&|f| f.binding = bound(1, Some(8)), &[running, broken]),
        (
            &|f| f.binding = bound(1, None),
            &[queued, running, broken, done],
        ),
        (&|f| f.binding = bound(2, None), &[]),
        (&|f| *f = all.clone(), &[done]),
    ];
    for (narrow, wanted) in cases {
        let mut filter = everything();
        narrow(&mut filter);
        let found = bed.store.runs(&filter).await.unwrap();
        let ids: Vec<RunId> = found.into_iter().map(|run| run.id).collect();
        assert_eq!(ids, wanted, "{filter:?}");
    }
}

pub async fn counts_and_the_oldest(bed: &Bed) {
    let empty = bed.store.counts().await.unwrap();
    assert_eq!((empty.queued, empty.running, empty.not_due), (0, 0, 0));
    assert_eq!(empty.oldest_queued_seconds, None);
    let old = bed.queued().await;
    bed.queued().await;
    let running = bed.queued().await;
    bed.age_run(old, "created_at", 5000).await;
    bed.age_run(running, "created_at", 90_000).await;
    bed.claim(running, "w1").await;
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running), (2, 1));
    let age = counts.oldest_queued_seconds.unwrap();
    assert!((5000.0..90_000.0).contains(&age), "{age}");
}

/// More workers would not help it.
pub async fn a_run_waits_from_when_it_is_due(bed: &Bed) {
    let run = bed.queued().await;
    bed.age_run(run, "created_at", 90_000).await;
    let held = bed.claim(run, "w1").await;
    let wait = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.not_due), (1, 1));
    assert_eq!(counts.oldest_queued_seconds, None);
    // One that is due counts beside it, and has waited from when it was recorded.
    let other = bed.queued().await;
    bed.age_run(other, "created_at", 1000).await;
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.not_due), (2, 1));
    let age = counts.oldest_queued_seconds.unwrap();
    assert!((999.0..90_000.0).contains(&age), "{age}");

    let deliveries = bed.own("run_deliveries");
    let row = format!("run_id = {run}");
    bed.age(&deliveries, "not_before", &row, 3600 + 5000).await;
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.not_due), (2, 0));
    let age = counts.oldest_queued_seconds.unwrap();
    assert!((4999.0..90_000.0).contains(&age), "{age}");

    // The sweep that sends its hint does not take that from it, nor does a time of recording that is none.
    assert!(bed.sweep().await.due.contains(&run));
    for change in ["status = 'queued'", "created_at = 'infinity'"] {
        bed.save(run, change).await;
        let age = bed.store.counts().await.unwrap().oldest_queued_seconds;
        let age = age.unwrap();
        assert!((4999.0..90_000.0).contains(&age), "{change}: {age}");
    }
}

pub async fn the_wait_of_an_earlier_run_of_its_id_is_no_wait(bed: &Bed) {
    let run = bed.queued().await;
    bed.age_run(run, "created_at", 5000).await;
    let held = bed.claim(run, "w1").await;
    let wait = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
    // As a new row of the same id has it.
    bed.save(run, "started_at = NULL").await;
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.not_due), (1, 0));
    assert!(counts.oldest_queued_seconds.unwrap() >= 4999.0);
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
    assert!(later.last_heartbeat_at >= first.last_heartbeat_at);
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
