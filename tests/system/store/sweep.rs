//! What the reconciler finds.

use crate::store::bed::Bed;
use crate::store::fixtures::{
    ISOLATED, POLICY, SWEEP, at_once, context, failed, heartbeat, succeeded, worker,
};
use std::time::Duration;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, RunStatus, TenantId};
use verifyd::ports::store::{AttemptEnd, ClaimPolicy, SweepPolicy, Swept};

/// Deliveries that were lost are repeated.
const REPEAT: SweepPolicy = SweepPolicy {
    redeliver: true,
    ..SWEEP
};

async fn sweep(bed: &Bed, policy: &SweepPolicy) -> Swept {
    bed.store
        .sweep(policy)
        .await
        .unwrap()
        .expect("nobody else sweeps")
}

pub async fn a_bare_insert_is_found(bed: &Bed) {
    let run = bed.queued().await;
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (vec![], vec![run]));
}

pub async fn what_was_delivered_is_not_delivered_again_too_early(bed: &Bed) {
    bed.queued().await;
    bed.recorded(1).await;
    assert_eq!(bed.sweep().await.due.len(), 1);
    assert_eq!(sweep(bed, &REPEAT).await.due, []);
}

pub async fn a_lost_delivery_is_repeated_when_asked_for(bed: &Bed) {
    let run = bed.recorded(1).await;
    bed.age(&bed.own("run_deliveries"), "delivered_at", "1 = 1", 301)
        .await;
    bed.age("operation_runs", "created_at", "1 = 1", 301).await;
    assert_eq!(bed.sweep().await.due, []);
    assert_eq!(sweep(bed, &REPEAT).await.due, [run]);
    assert_eq!(sweep(bed, &REPEAT).await.due, []);
}

pub async fn undispatched_runs_are_due_again(bed: &Bed) {
    let (first, second) = (bed.queued().await, bed.queued().await);
    assert_eq!(bed.sweep().await.due, [first, second]);
    bed.store
        .mark_undispatched(&[second, RunId(987_654_321)])
        .await
        .unwrap();
    bed.store.mark_undispatched(&[]).await.unwrap();
    assert_eq!(bed.sweep().await.due, [second]);
}

pub async fn oldest_first_and_no_more_than_the_batch(bed: &Bed) {
    let runs = bed.many_queued(5).await;
    let small = SweepPolicy { batch: 2, ..SWEEP };
    assert_eq!(sweep(bed, &small).await.due, runs[..2]);
    assert_eq!(sweep(bed, &small).await.due, runs[2..4]);
    assert_eq!(sweep(bed, &small).await.due, runs[4..]);
    for run in &runs {
        bed.claim(*run, "dead").await;
    }
    assert_eq!(sweep(bed, &small).await.reclaimed, runs[..2]);
    assert_eq!(sweep(bed, &small).await.reclaimed, runs[2..4]);
}

/// What a sweep delivers, and whether more is to be looked at; the next one goes on from there.
async fn go_on(bed: &Bed, policy: &mut SweepPolicy) -> (Vec<RunId>, bool) {
    let swept = sweep(bed, policy).await;
    policy.from = swept.next;
    (swept.due, swept.more)
}

/// Runs that a hint was sent for, and that nobody has claimed.
async fn told(bed: &Bed, count: usize) -> Vec<RunId> {
    let new = vec![crate::store::fixtures::new_run(1); count];
    bed.store.record_many(&new).await.unwrap()
}

pub async fn what_waits_and_was_delivered_is_passed_a_window_at_a_time(bed: &Bed) {
    let delivered = told(bed, 7).await;
    let bare = bed.queued().await;
    let mut policy = SweepPolicy { window: 3, ..SWEEP };
    assert_eq!(go_on(bed, &mut policy).await, (vec![], true));
    assert_eq!(policy.from.up_to, delivered[2]);
    assert_eq!(go_on(bed, &mut policy).await, (vec![], true));
    assert_eq!(policy.from.up_to, delivered[5]);
    assert_eq!(go_on(bed, &mut policy).await, (vec![bare], false));
    // What comes from now on is found at once.
    let bare = bed.queued().await;
    assert_eq!(go_on(bed, &mut policy).await.0, [bare]);
}

pub async fn a_run_that_was_committed_late_is_found_behind(bed: &Bed) {
    let delivered = told(bed, 8).await;
    let mut policy = SweepPolicy { window: 3, ..SWEEP };
    for _ in 0..3 {
        assert_eq!(go_on(bed, &mut policy).await.0, []);
    }
    assert_eq!(policy.from.up_to, delivered[5]);
    let deliveries = bed.own("run_deliveries");
    for late in [delivered[5], delivered[1], delivered[4]] {
        bed.exec(&format!("DELETE FROM {deliveries} WHERE run_id = {late}"))
            .await;
        let mut found = Vec::new();
        // Once round, in windows of three, begins anywhere.
        for _ in 0..3 {
            found.extend(go_on(bed, &mut policy).await.0);
        }
        assert_eq!(found, [late]);
    }
}

pub async fn what_a_sweep_has_no_room_for_is_the_next_ones(bed: &Bed) {
    let mut runs = told(bed, 2).await;
    for _ in 0..7 {
        runs.push(bed.queued().await);
    }
    // Queued again by its worker, and so due whatever the windows show.
    let held = bed.claim(runs[7], "w1").await;
    assert!(bed.release(&held, AttemptEnd::Shutdown, None).await);
    for window in [1, 2, 4, 100] {
        let mut policy = SweepPolicy {
            window,
            batch: 2,
            ..SWEEP
        };
        let mut found = Vec::new();
        for _ in 0..12 {
            let (due, _) = go_on(bed, &mut policy).await;
            assert!(due.len() <= 2);
            found.extend(due);
        }
        found.sort_unstable();
        assert_eq!(found, runs[2..], "a window of {window}");
        let deliveries = bed.own("run_deliveries");
        bed.exec(&format!(
            "DELETE FROM {deliveries} WHERE run_id > {}",
            runs[1]
        ))
        .await;
    }
}

pub async fn not_before_holds_back_a_delivery(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let wait = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
    assert_eq!(sweep(bed, &REPEAT).await.due, []);
    bed.age(&bed.own("run_deliveries"), "not_before", "1 = 1", 3601)
        .await;
    assert_eq!(bed.sweep().await.due, [run]);
}

pub async fn a_dead_worker_loses_its_runs(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.recorded(1).await;
    let held = bed.claim(run, "w1").await;
    bed.age(&bed.own("workers"), "beat_at", "1 = 1", 301).await;
    let swept = bed.sweep().await;
    // Queued and due at once, although it had been delivered.
    assert_eq!((swept.reclaimed, swept.due), (vec![run], vec![run]));
    assert_eq!(bed.run(run).await.status, RunStatus::Queued);
    let attempt = bed.attempts(run).await.remove(0);
    assert_eq!(attempt.end_reason, Some(AttemptEnd::WorkerLost));
    assert!(attempt.counted);
    assert!(!bed.store.complete(&held, &succeeded()).await.unwrap());
    bed.store.heartbeat(&heartbeat("w2")).await.unwrap();
    let next = bed.claim(run, "w2").await;
    assert_eq!((next.attempt, next.counted_attempts), (2, 2));
    assert_eq!(bed.sweep().await, Swept::default());
}

pub async fn a_worker_that_was_never_seen_is_dead(bed: &Bed) {
    let run = bed.queued().await;
    bed.claim(run, "w1").await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}

pub async fn a_passed_deadline_ends_the_lease(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    bed.claim(run, "w1").await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    let past = POLICY.lease.as_secs() as u32 + 1;
    bed.age(&bed.own("run_attempts"), "deadline_at", "1 = 1", past)
        .await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}

pub async fn a_live_lease_is_left_alone(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    bed.age("operation_runs", "started_at", "1 = 1", 5000).await;
    bed.age("operation_runs", "created_at", "1 = 1", 5000).await;
    bed.age(&bed.own("workers"), "beat_at", "1 = 1", 200).await;
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    bed.age(&bed.own("workers"), "beat_at", "1 = 1", 200).await;
    assert_eq!(bed.sweep().await, Swept::default());
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
}

pub async fn a_retired_worker_loses_its_runs(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    bed.claim(run, "w1").await;
    bed.store.retire(&worker("w1")).await.unwrap();
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}

pub async fn a_running_run_without_a_lease_is_queued_after_one_lease_time(bed: &Bed) {
    let started = bed.insert(RUN_TYPE, "running", &context(1)).await;
    let created = bed.insert(RUN_TYPE, "running", &context(2)).await;
    bed.save(started, "started_at = created_at").await;
    assert_eq!(bed.sweep().await, Swept::default());
    bed.age_run(started, "started_at", 301).await;
    assert_eq!(bed.sweep().await.reclaimed, [started]);
    bed.age_run(created, "created_at", 301).await;
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (vec![created], vec![created]));
    assert_eq!(bed.claim(started, "w1").await.attempt, 1);
}

/// Completed, queued or deleted by somebody else while the lease was open.
pub async fn a_stray_attempt_does_not_hold_up_the_sweep(bed: &Bed) {
    let mut runs = Vec::new();
    for _ in 0..4 {
        let run = bed.queued().await;
        bed.claim(run, "dead").await;
        runs.push(run);
    }
    for (run, change) in [
        (
            runs[0],
            "UPDATE operation_runs SET status = 'completed', outcome = 'failed', \
                   completed_at = started_at",
        ),
        (runs[1], "UPDATE operation_runs SET status = 'queued'"),
        (runs[2], "DELETE FROM operation_runs"),
    ] {
        bed.exec(&format!("{change} WHERE id = {run}")).await;
    }
    let one = SweepPolicy { batch: 1, ..SWEEP };
    let mut reclaimed = Vec::new();
    for _ in 0..4 {
        reclaimed.extend(sweep(bed, &one).await.reclaimed);
    }
    assert_eq!(reclaimed, [runs[3]]);
    assert_eq!(bed.run(runs[0]).await.status, RunStatus::Completed);
    for run in &runs[..3] {
        let attempts = bed.own("run_attempts");
        let why = format!("SELECT end_reason FROM {attempts} WHERE run_id = {run}");
        assert_eq!(
            bed.text(&why).await,
            AttemptEnd::Superseded.as_str(),
            "{run}"
        );
    }
}

/// Runs of the tenant 8 are refused, those of 9 kept as they are, those of 10 refused by the commit, and those of 11
/// refused as a conflict.
const RULES: [&str; 2] = [
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
         IF new.tenant_id = 9 THEN RETURN NULL; END IF;
         IF new.tenant_id = 11 THEN RAISE ''not today'' USING errcode = ''40001''; END IF;
         RAISE EXCEPTION ''not today''; END';
     CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW
         WHEN (new.status = 'queued' AND new.tenant_id IN (8, 9, 11)) EXECUTE FUNCTION refuse();
     CREATE CONSTRAINT TRIGGER refuse_late AFTER UPDATE ON operation_runs DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW WHEN (new.status = 'queued' AND new.tenant_id = 10) EXECUTE FUNCTION refuse()",
    "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs
         WHEN new.status = 'queued' AND new.tenant_id IN (8, 10, 11)
         BEGIN SELECT RAISE(ABORT, 'not today'); END;
     CREATE TRIGGER refuse_late BEFORE UPDATE ON operation_runs
         WHEN new.status = 'queued' AND new.tenant_id = 9 BEGIN SELECT RAISE(IGNORE); END",
];

pub async fn a_run_that_the_database_refuses_to_queue_costs_the_others_nothing(bed: &Bed) {
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for tenant in [8, 7, 9, 7, 10, 7, 11, 7] {
        let lost = bed.queued_for(tenant, 1).await;
        bed.claim(lost, "dead").await;
        bed.age_run(lost, "started_at", 301).await;
        let bare = bed
            .insert_for(TenantId(tenant), RUN_TYPE, "running", &context(1))
            .await;
        bed.age_run(bare, "created_at", 301).await;
        match tenant {
            7 => &mut others,
            _ => &mut refused,
        }
        .extend([lost, bare]);
    }
    bed.exec(RULES[usize::from(!bed.is_postgres())]).await;
    let small = SweepPolicy { batch: 3, ..SWEEP };
    let mut reclaimed = Vec::new();
    for _ in 0..16 {
        reclaimed.extend(sweep(bed, &small).await.reclaimed);
    }
    reclaimed.sort_unstable();
    assert_eq!(reclaimed, others);
    for run in &refused {
        assert_eq!(bed.run(*run).await.status, RunStatus::Running);
    }
    for trigger in ["refuse", "refuse_late"] {
        let on = match bed.is_postgres() {
            true => " ON operation_runs",
            false => "",
        };
        bed.exec(&format!("DROP TRIGGER {trigger}{on}")).await;
    }
    // Another replica does not leave them out.
    let swept = bed.replica().await.sweep(&SWEEP).await.unwrap().unwrap();
    assert_eq!(swept.reclaimed, refused);
}

/// Where the attempt of a run ends, another worker has taken it.
const TAKEOVER: [&str; 2] = [
    "CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
         INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
         VALUES (new.run_id, 2, gen_random_uuid(), ''w1'', true, now(), now() + interval ''1 day''); RETURN NULL; END';
     CREATE TRIGGER take AFTER UPDATE ON verifyd.run_attempts FOR EACH ROW
         WHEN (new.attempt = 1) EXECUTE FUNCTION take()",
    "CREATE TRIGGER take AFTER UPDATE ON verifyd_run_attempts WHEN new.attempt = 1 BEGIN
         INSERT INTO verifyd_run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
         VALUES (new.run_id, 2, 'taken', 'w1', 1, new.claimed_at, '9999-01-01T00:00:00.000Z'); END",
];

pub async fn a_run_that_was_taken_meanwhile_is_not_left_out(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    bed.claim(run, "dead").await;
    bed.exec(TAKEOVER[usize::from(!bed.is_postgres())]).await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    assert_eq!(bed.run(run).await.status, RunStatus::Running);
    bed.store.retire(&worker("w1")).await.unwrap();
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}

/// Each run meets a lock when it is queued again, and one has the highest id and meets none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_whose_rule_waits_for_a_lock_cost_the_others_little() {
    let bed = Bed::postgres().await;
    for _ in 0..10 {
        let run = bed.queued_for(8, 1).await;
        bed.claim(run, "dead").await;
        bed.age_run(run, "started_at", 301).await;
    }
    let other = bed.queued().await;
    bed.claim(other, "dead").await;
    bed.age_run(other, "started_at", 301).await;
    bed.exec(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock(8); RETURN new; END';
         CREATE TRIGGER wait BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.tenant_id = 8) EXECUTE FUNCTION wait()",
    )
    .await;
    let mut holder = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(8)")
        .execute(&mut *holder)
        .await
        .unwrap();
    let sweeps = async {
        let mut reclaimed = Vec::new();
        // Each of them leaves out one more of those that wait, at least.
        for _ in 0..=10 {
            reclaimed.extend(bed.sweep().await.reclaimed);
        }
        reclaimed
    };
    let reclaimed = tokio::time::timeout(Duration::from_secs(600), sweeps).await;
    assert_eq!(reclaimed.expect("no sweep waits for long"), [other]);
    holder.rollback().await.unwrap();
}

/// How long the rest of a sweep may wait is the same, whether it queues runs again or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_timeouts_end_with_the_runs_that_are_queued_again() {
    let bed = Bed::postgres().await;
    let lost = bed.queued().await;
    bed.claim(lost, "dead").await;
    bed.exec(
        "CREATE TABLE seen (place text, timeouts text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
             INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting(''lock_timeout'') || '' '' ||
                 current_setting(''statement_timeout'')); RETURN new; END';
         CREATE TRIGGER see BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION see();
         CREATE TRIGGER see BEFORE INSERT ON verifyd.run_deliveries FOR EACH ROW
             EXECUTE FUNCTION see()",
    )
    .await;
    assert_eq!(bed.sweep().await.reclaimed, [lost]);
    let run = bed.queued().await;
    assert_eq!(bed.sweep().await.due, [run]);
    let short = "SELECT timeouts FROM seen WHERE place = 'operation_runs'";
    assert_eq!(bed.text(short).await, "250ms 500ms");
    assert_eq!(bed.count("seen WHERE place = 'run_deliveries'").await, 2);
    let different = "SELECT count(DISTINCT timeouts) FROM seen WHERE place = 'run_deliveries'";
    assert_eq!(bed.number(different).await, 1);
}

/// Runs of the tenant 8, of which every second one has a dead lease, and the others none.
const LOST: &str = "
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at, started_at)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 15)
    SELECT 1, 8, 'provider.connection.check', 'running', '{}', '2020-01-01T00:00:00.000Z',
        '2020-01-01T00:00:00.000Z' FROM n;
    INSERT INTO verifyd_run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
    SELECT id, 1, 'token ' || id, 'dead', 1, started_at, started_at FROM operation_runs
    WHERE tenant_id = 8 AND id % 2 = 0 ON CONFLICT DO NOTHING";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_whose_rule_ends_the_transaction_cost_the_others_nothing() {
    let bed = Bed::sqlite().await;
    bed.unguard().await;
    let mut others = Vec::new();
    for _ in 0..4 {
        bed.exec(LOST).await;
        let other = bed.queued().await;
        bed.claim(other, "dead").await;
        others.push(other);
    }
    bed.exec(
        "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs
             WHEN new.status = 'queued' AND new.tenant_id = 8
             BEGIN SELECT RAISE(ROLLBACK, 'not today'); END",
    )
    .await;
    let bare = bed.queued().await;
    let sweeps = async {
        let Swept {
            mut reclaimed, due, ..
        } = bed.sweep().await;
        assert!(due.contains(&bare));
        while reclaimed.len() < others.len() {
            reclaimed.extend(bed.sweep().await.reclaimed);
        }
        reclaimed
    };
    let reclaimed = tokio::time::timeout(Duration::from_secs(600), sweeps).await;
    let mut reclaimed = reclaimed.expect("sweeps pass all of them");
    reclaimed.sort_unstable();
    assert_eq!(reclaimed, others);
    let refused = "operation_runs WHERE tenant_id = 8 AND status = 'running'";
    assert_eq!(bed.count(refused).await, 60);
}

pub async fn a_reclaimed_run_is_exhausted_when_its_attempts_are_spent(bed: &Bed) {
    let run = bed.queued().await;
    let policy = ClaimPolicy {
        max_attempts: 2,
        ..ISOLATED
    };
    for n in 1..=2 {
        let held = bed.store.claim(run, &worker("dead"), &policy).await;
        let held = held.unwrap().claimed().unwrap();
        assert_eq!((held.counted_attempts, held.exhausted), (n, false));
        assert_eq!(bed.sweep().await.reclaimed, [run]);
    }
    let last = bed.store.claim(run, &worker("w"), &policy).await;
    let last = last.unwrap().claimed().unwrap();
    assert!(last.exhausted);
    assert!(bed.store.complete(&last, &failed()).await.unwrap());
}

pub async fn rows_of_another_type_are_never_touched(bed: &Bed) {
    for (status, age) in [
        ("queued", 0),
        ("running", 0),
        ("running", 9000),
        ("paused", 9000),
    ] {
        let run = bed.insert("backup.restore", status, &context(1)).await;
        bed.age_run(run, "created_at", age).await;
    }
    // Even one that has an attempt, as if its type had been changed.
    let turned = bed.queued().await;
    let held = bed.claim(turned, "dead").await;
    bed.unguard().await;
    bed.save(turned, "type = 'backup.restore'").await;
    let before = bed.dump("operation_runs").await;
    let eager = SweepPolicy {
        worker_dead_after: Duration::ZERO,
        redeliver_after: Duration::ZERO,
        redeliver: true,
        ..SWEEP
    };
    for _ in 0..2 {
        assert_eq!(sweep(bed, &eager).await, Swept::default());
    }
    assert!(!bed.store.complete(&held, &succeeded()).await.unwrap());
    assert!(!bed.release(&held, AttemptEnd::Error, None).await);
    assert_eq!(bed.dump("operation_runs").await, before);
    assert_eq!(bed.listed().await, []);
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running), (0, 0));
}

pub async fn sweeps_of_two_replicas_deliver_a_run_once(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 0..20 {
        let runs = bed.many_queued(3).await;
        let swept = at_once(
            &stores,
            4,
            |store, _| async move { store.sweep(&SWEEP).await },
        );
        let swept: Vec<Swept> = swept.await.into_iter().filter_map(Result::unwrap).collect();
        assert!(!swept.is_empty(), "round {round}");
        let mut due: Vec<RunId> = swept.into_iter().flat_map(|swept| swept.due).collect();
        due.sort();
        assert_eq!(due, runs, "round {round}");
    }
}

pub async fn left_over_deliveries_are_forgotten(bed: &Bed) {
    let table = bed.own("run_deliveries");
    let active = bed.recorded(1).await;
    let gone = bed.recorded(2).await;
    bed.delete_run(gone).await;
    bed.age(&table, "delivered_at", "1 = 1", 90_000).await;
    bed.store.heartbeat(&heartbeat("old")).await.unwrap();
    bed.age(&bed.own("workers"), "beat_at", "1 = 1", 90_000)
        .await;
    bed.sweep().await;
    assert_eq!(bed.count(&table).await, 1);
    assert_eq!(
        bed.number(&format!("SELECT run_id FROM {table}")).await,
        active.0
    );
    let workers = bed.own("workers");
    assert_eq!(bed.count(&workers).await, 0);
}

/// Given back or refused by the queue, and then completed or deleted by somebody else: nothing is delivered
/// any more.
pub async fn left_over_deliveries_that_wait_are_forgotten(bed: &Bed) {
    let table = bed.own("run_deliveries");
    let mut runs = Vec::new();
    for _ in 0..6 {
        let run = bed.queued().await;
        let held = bed.claim(run, "w1").await;
        let wait = Some(Duration::from_secs(60));
        assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
        runs.push(run);
    }
    let [completed, deleted, at_once, waiting, due, later] = runs[..] else {
        unreachable!()
    };
    bed.exec(&format!(
        "UPDATE {table} SET not_before = NULL WHERE run_id = {at_once}; \
         DELETE FROM operation_runs WHERE id IN ({deleted}, {at_once}, {later}); \
         UPDATE operation_runs SET status = 'completed', outcome = 'failed', \
             completed_at = created_at WHERE id = {completed}"
    ))
    .await;
    let old = format!("run_id IN ({completed}, {deleted}, {due})");
    bed.age(&table, "not_before", &old, 90_000).await;
    assert_eq!(bed.sweep().await.due, [due]);
    for (run, left) in [
        (completed, 0),
        (deleted, 0),
        (at_once, 0),
        (waiting, 1),
        (due, 1),
        // Not for ever: for a day after its time.
        (later, 1),
    ] {
        let rows = format!("{table} WHERE run_id = {run}");
        assert_eq!(bed.count(&rows).await, left, "{run} of {runs:?}");
    }
}
