//! Acknowledging while runs of the connection are being completed, and what only PostgreSQL can show.

use crate::store::acknowledgements::{BROKEN, FINE, accept, checked, now, of, report};
use crate::store::bed::Bed;
use crate::store::stale_snapshots::while_it_waits;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use verifyd::domain::{AcknowledgementId, RunId};
use verifyd::ports::store::StoreError;

/// Twenty-five people acknowledge while twenty-five runs of the connection are completed. Whoever
/// comes first: what the runs said, in the order of their completion, decides.
pub async fn acknowledging_beside_completions_loses_nothing(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 1..=4_i64 {
        let first = checked(bed, round, &[BROKEN]).await;
        let mut held = Vec::new();
        for _ in 0..25 {
            let run = bed.queued_for(7, round).await;
            held.push(bed.claim(run, "w1").await);
        }
        let runs: Vec<RunId> = held.iter().map(|claim| claim.run.id).collect();
        let barrier = Arc::new(Barrier::new(50));
        let mut completing = tokio::task::JoinSet::new();
        for (n, claim) in held.into_iter().enumerate() {
            let (store, barrier) = (stores[n % 2].clone(), barrier.clone());
            // In the last round nothing ends it.
            let said = if n % 5 == 4 && round < 4 {
                FINE
            } else {
                BROKEN
            };
            completing.spawn(async move {
                barrier.wait().await;
                let completion = report(round, None, &[said]);
                assert!(store.complete(&claim, &completion).await.unwrap());
            });
        }
        let mut acknowledging = tokio::task::JoinSet::new();
        for n in 0..25 {
            let (store, barrier) = (stores[n % 2].clone(), barrier.clone());
            acknowledging.spawn(async move {
                barrier.wait().await;
                store
                    .acknowledge(&accept(first, round, BROKEN))
                    .await
                    .unwrap()
                    .unwrap()
            });
        }
        while let Some(done) = completing.join_next().await {
            done.unwrap();
        }
        let made: Vec<_> = acknowledging.join_all().await;
        assert_eq!(made.iter().filter(|(_, created)| *created).count(), 1);
        let ids: BTreeSet<AcknowledgementId> = made.iter().map(|(a, _)| a.id).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let ack = ids.into_iter().next().unwrap();

        let mut order = Vec::new();
        for id in runs {
            let run = bed.run(id).await;
            let broken = run.report().unwrap()["checks"][0]["status"] == "fail";
            order.push((run.completed_at.unwrap(), id, broken));
        }
        order.sort_unstable();
        let mut stands = true;
        for (_, run, broken) in order {
            stands &= broken;
            let wanted: &[AcknowledgementId] = if stands { &[ack] } else { &[] };
            assert_eq!(
                of(&bed.store, run).await,
                wanted,
                "round {round}, run {run}"
            );
        }
    }
}

/// The completion has begun, and waits for whoever acknowledges: it must see what was written in
/// the meantime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_waited_ends_what_it_could_not_see_before() {
    let bed = Bed::postgres().await;
    let first = checked(&bed, 1, &[BROKEN]).await;
    let run = bed.queued_for(7, 1).await;
    let held = bed.claim(run, "w1").await;
    let store = bed.store.clone();
    let completion = async move { store.complete(&held, &report(1, None, &[FINE])).await };
    // What `acknowledge` locks, and then writes; its own call would wait, too, and come second.
    let lock = "SELECT FROM verifyd.latest_reports WHERE connection_id = 1 FOR UPDATE";
    let acknowledge = format!(
        "INSERT INTO verification_check_acknowledgements (id, operation_run_id, check_key, \
             reason_code, reason, acknowledged_by) \
         VALUES (5, {first}, 'permissions.x', 'permission_missing', 'known', 'Ann'); \
         UPDATE verifyd.latest_reports SET acknowledged = true WHERE connection_id = 1; \
         INSERT INTO verifyd.carried_acknowledgements (acknowledgement_id, connection_id, \
             check_key, status, reason_code, from_run_id, from_completed_at) \
         SELECT 5, 1, 'permissions.x', 'fail', 'permission_missing', id, completed_at \
         FROM operation_runs WHERE id = {first}"
    );
    let completed = while_it_waits(&bed, lock, completion, &acknowledge).await;
    assert!(completed.unwrap());
    assert_eq!(of(&bed.store, first).await, [AcknowledgementId(5)]);
    assert_eq!(of(&bed.store, run).await, []);
    let back = checked(&bed, 1, &[BROKEN]).await;
    assert_eq!(of(&bed.store, back).await, []);
}

/// Another application's table, with times without a time zone and a rule of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_applications_own_table_is_used_as_it_is() {
    let bed = Bed::empty_postgres().await;
    bed.exec(
        "CREATE TABLE verification_check_acknowledgements (id bigserial PRIMARY KEY, \
         operation_run_id bigint NOT NULL, check_key varchar(255) NOT NULL, reason_code varchar(64), \
         reason text NOT NULL, acknowledged_by varchar(8) NOT NULL, acknowledged_at timestamp(0), \
         expires_at timestamp(0), withdrawn_at timestamp(0), withdrawn_by varchar(255))",
    )
    .await;
    bed.store.migrate().await.unwrap();
    assert_eq!(bed.store.inspect().await.unwrap(), []);
    let first = checked(&bed, 1, &[BROKEN]).await;
    let mut new = accept(first, 1, BROKEN);
    new.expires_at = Some("2999-01-02T03:04:05Z".parse().unwrap());
    let (made, _) = bed.store.acknowledge(&new).await.unwrap().unwrap();
    assert_eq!(made.expires_at, new.expires_at);
    let off = (made.acknowledged_at.unwrap() - now()).num_seconds();
    assert!(off.abs() < 1800, "{off}");
    let second = checked(&bed, 1, &[BROKEN]).await;
    assert_eq!(of(&bed.store, second).await, [made.id]);
    let third = checked(&bed, 1, &[FINE]).await;
    assert_eq!(of(&bed.store, third).await, []);
    // What the table refuses leaves nothing behind.
    new.run = third;
    new.acknowledged_by = "a name that is too long".into();
    let refused = bed.store.acknowledge(&new).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(of(&bed.store, third).await, []);
    let carried = "verifyd.carried_acknowledgements";
    assert_eq!(bed.count(carried).await, 1);
}
