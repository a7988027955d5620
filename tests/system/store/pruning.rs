//! Deleting completed runs that are old.

use crate::store::bed::Bed;
use crate::store::fixtures::{context, succeeded};
use std::time::Duration;
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::store::{AttemptEnd, PrunePolicy, Pruned};

const DAY: u32 = 24 * 3600;

const POLICY: PrunePolicy = PrunePolicy {
    older_than: Duration::from_secs(10 * DAY as u64),
    batch: 100,
};

async fn completed(bed: &Bed, connection: Option<i64>) -> RunId {
    let run = bed.queued().await;
    let mut completion = succeeded();
    completion.connection = connection.map(ConnectionId);
    bed.complete(run, &completion).await;
    run
}

async fn aged(bed: &Bed, run: RunId, days: u32) {
    bed.age_run(run, "completed_at", days * DAY).await;
    bed.age(
        &bed.own("latest_reports"),
        "completed_at",
        &format!("operation_run_id = {run}"),
        days * DAY,
    )
    .await;
}

async fn rows_of(bed: &Bed, table: &str, column: &str, run: RunId) -> i64 {
    bed.number(&format!(
        "SELECT count(*) FROM {table} WHERE {column} = {run}"
    ))
    .await
}

pub async fn only_old_completed_runs_go_with_what_belongs_to_them(bed: &Bed) {
    let old = completed(bed, None).await;
    let young = completed(bed, None).await;
    let queued = bed.queued().await;
    let running = bed.queued().await;
    bed.claim(running, "w1").await;
    let other = bed.insert("backup.restore", "completed", &context(1)).await;
    bed.save(other, "completed_at = created_at").await;
    for run in [old, other] {
        aged(bed, run, 11).await;
    }
    aged(bed, young, 9).await;
    let deliveries = bed.own("run_deliveries");
    for run in [old, young, other] {
        bed.exec(&format!(
            "INSERT INTO verification_check_acknowledgements \
                 (operation_run_id, check_key, reason, acknowledged_by) \
             VALUES ({run}, 'connection.state', 'known', 'somebody'); \
             INSERT INTO {deliveries} (run_id) VALUES ({run})"
        ))
        .await;
    }
    assert_eq!(bed.store.prunable(POLICY.older_than).await.unwrap(), 1);
    let pruned = bed.store.prune(&POLICY, None).await.unwrap();
    let wanted = Pruned {
        runs: 1,
        attempts: 1,
        deliveries: 1,
        acknowledgements: 1,
        last: Some(old),
    };
    assert_eq!(pruned, wanted);
    let attempts = bed.own("run_attempts");
    let belonging = [
        ("operation_runs", "id"),
        (attempts.as_str(), "run_id"),
        (deliveries.as_str(), "run_id"),
        ("verification_check_acknowledgements", "operation_run_id"),
    ];
    for (table, column) in belonging {
        assert_eq!(rows_of(bed, table, column, old).await, 0, "{table}");
        assert_eq!(rows_of(bed, table, column, young).await, 1, "{table}");
    }
    for run in [queued, running, other] {
        assert_eq!(rows_of(bed, "operation_runs", "id", run).await, 1);
    }
    let acknowledged = "verification_check_acknowledgements";
    assert_eq!(
        rows_of(bed, acknowledged, "operation_run_id", other).await,
        1
    );
    assert_eq!(rows_of(bed, &attempts, "run_id", running).await, 1);
    assert_eq!(bed.store.prunable(POLICY.older_than).await.unwrap(), 0);
    assert_eq!(
        bed.store.prune(&POLICY, None).await.unwrap(),
        Pruned::default()
    );
}

pub async fn a_batch_is_bounded_and_goes_on_where_the_last_one_ended(bed: &Bed) {
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(completed(bed, None).await);
    }
    for run in &runs {
        aged(bed, *run, 11).await;
    }
    let two = PrunePolicy { batch: 2, ..POLICY };
    let first = bed.store.prune(&two, None).await.unwrap();
    assert_eq!((first.runs, first.last), (2, Some(runs[1])));
    // Only what comes after the given id.
    let third = bed.store.prune(&two, Some(runs[3])).await.unwrap();
    assert_eq!((third.runs, third.last), (1, Some(runs[4])));
    let second = bed.store.prune(&two, first.last).await.unwrap();
    assert_eq!((second.runs, second.last), (2, Some(runs[3])));
    let none = bed.store.prune(&two, second.last).await.unwrap();
    assert_eq!(none, Pruned::default());
}

pub async fn what_is_still_pointed_to_is_kept(bed: &Bed) {
    let superseded = completed(bed, Some(1)).await;
    let latest = completed(bed, Some(1)).await;
    let shown = completed(bed, None).await;
    bed.exec(&format!(
        "INSERT INTO tenant_onboarding_sessions (workspace_id, state) VALUES \
         (1, '{{\"verification_operation_run_id\": {shown}}}'), (1, '{{}}')"
    ))
    .await;
    for run in [superseded, latest, shown] {
        aged(bed, run, 999).await;
    }
    assert_eq!(bed.store.prunable(POLICY.older_than).await.unwrap(), 1);
    let pruned = bed.store.prune(&POLICY, None).await.unwrap();
    assert_eq!((pruned.runs, pruned.last), (1, Some(superseded)));
    for run in [latest, shown] {
        assert!(bed.store.run(run).await.unwrap().is_some());
    }
    let report = bed.store.latest_report(ConnectionId(1)).await.unwrap();
    assert_eq!(report.unwrap().operation_run_id, latest);
}

/// Whoever deletes a run does not know of its attempts. They go in chunks; what is in flight stays.
pub async fn attempts_of_runs_that_others_deleted_go(bed: &Bed) {
    let mut gone = Vec::new();
    for _ in 0..5 {
        let run = bed.queued().await;
        let first = bed.claim(run, "w1").await;
        assert!(bed.release(&first, AttemptEnd::Error, None).await);
        bed.complete(run, &succeeded()).await;
        gone.push(run);
    }
    let kept = gone.remove(2);
    let open = bed.queued().await;
    bed.claim(open, "w1").await;
    let ids: Vec<String> = gone
        .iter()
        .chain([&open])
        .map(ToString::to_string)
        .collect();
    bed.exec(&format!(
        "DELETE FROM operation_runs WHERE id IN ({})",
        ids.join(", ")
    ))
    .await;
    let (mut after, mut chunks) = (None, Vec::new());
    loop {
        let pruned = bed.store.prune_stray_attempts(3, after).await.unwrap();
        chunks.push(pruned.attempts);
        after = pruned.last;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(chunks, [3, 3, 2, 0]);
    let attempts = bed.own("run_attempts");
    assert_eq!(rows_of(bed, &attempts, "run_id", kept).await, 2);
    assert_eq!(rows_of(bed, &attempts, "run_id", open).await, 1);
    assert_eq!(bed.count(&attempts).await, 3);
}
