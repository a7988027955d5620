//! What the database refuses of runs: results, and to queue them again.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, failed, heartbeat, worker};
use crate::store::pages_of_a_connection::counted;
use uuid::Uuid;
use verifyd::domain::{RunId, TenantId};
use verifyd::ports::store::{AttemptEnd, Claim, ClaimPolicy, RefusedRun, RefusedWrite};

fn refused(run: RunId, write: RefusedWrite, refusal: &str) -> RefusedRun {
    RefusedRun {
        operation_run_id: run,
        tenant_id: Some(TenantId(8)),
        write,
        refusal: refusal.to_owned(),
    }
}

async fn refused_runs(bed: &Bed) -> Vec<RefusedRun> {
    let found = bed.store.refused_runs(1_000).await.unwrap();
    assert!(found.are_all);
    found.runs
}

async fn claimed(bed: &Bed, run: RunId, max_attempts: u32) -> Claim {
    let policy = ClaimPolicy {
        max_attempts,
        ..ISOLATED
    };
    let answer = bed.store.claim(run, &worker("w"), &policy).await;
    answer.unwrap().claimed().unwrap()
}

/// Of completed runs more attempts were refused, and later, than are looked at.
pub async fn a_refused_run_is_found_behind_completed_ones(bed: &Bed) {
    const REFUSAL: &str = "SQLSTATE P0001";
    let open = bed.queued_for(8, 1).await;
    let held = claimed(bed, open, 3).await;
    note(bed, &held, REFUSAL).await;
    for _ in 0..3 {
        let run = bed.queued().await;
        let held = claimed(bed, run, 3).await;
        note(bed, &held, REFUSAL).await;
        assert!(bed.store.complete(&held, &failed()).await.unwrap());
    }
    let named = [refused(open, RefusedWrite::Result, REFUSAL)];
    let found = async || bed.store.refused_runs(2).await.unwrap();
    // While it runs, and while it is queued.
    let running = found().await;
    assert_eq!((&running.runs[..], running.are_all), (&named[..], true));
    assert!(bed.release(&held, AttemptEnd::Error, None).await);
    let queued = found().await;
    assert_eq!((&queued.runs[..], queued.are_all), (&named[..], true));
    bed.many_queued(2).await;
    let among_others = found().await;
    assert_eq!(
        (&among_others.runs[..], among_others.are_all),
        (&named[..], false)
    );
}

async fn note(bed: &Bed, claim: &Claim, refusal: &str) {
    let noted = bed.store.note_refused_result(claim, refusal).await;
    noted.unwrap();
}

pub async fn a_refused_result_is_known_to_the_last_claim(bed: &Bed) {
    const REFUSAL: &str = "SQLSTATE 23514, constraint small";
    let other = bed.queued().await;
    bed.claim(other, "w").await;
    let run = bed.queued_for(8, 1).await;
    let held = claimed(bed, run, 1).await;
    assert_eq!(held.result_refusal, None);
    let forged = Claim {
        token: Uuid::new_v4(),
        ..held.clone()
    };
    note(bed, &forged, REFUSAL).await;
    assert_eq!(bed.attempts(run).await[0].result_refusal, None);
    note(bed, &held, REFUSAL).await;
    let noted = bed.attempts(run).await.remove(0);
    assert_eq!(noted.result_refusal.as_deref(), Some(REFUSAL));
    assert_eq!(noted.ended_at, None);
    assert!(bed.release(&held, AttemptEnd::Error, None).await);
    let named = [refused(run, RefusedWrite::Result, REFUSAL)];
    assert_eq!(refused_runs(bed).await, named);

    let last = claimed(bed, run, 1).await;
    assert!(last.exhausted);
    assert_eq!(last.result_refusal.as_deref(), Some(REFUSAL));
    // Until it has ended, the one before it is the last.
    assert_eq!(refused_runs(bed).await, named);
    assert!(bed.release(&last, AttemptEnd::Error, None).await);
    assert_eq!(refused_runs(bed).await, []);

    // The attempt that failed to complete it did not count.
    let last = claimed(bed, run, 1).await;
    assert_eq!(last.result_refusal.as_deref(), Some(REFUSAL));
    note(bed, &last, REFUSAL).await;
    assert_eq!(refused_runs(bed).await, named);
    assert!(bed.store.complete(&last, &failed()).await.unwrap());
    assert_eq!(refused_runs(bed).await, []);
}

pub async fn a_run_that_is_lost_after_a_refused_result_is_lost(bed: &Bed) {
    let run = bed.queued().await;
    let held = claimed(bed, run, 2).await;
    let refusal = Some("SQLSTATE P0001");
    let release = bed
        .store
        .release(&held, AttemptEnd::Error, None, refusal, false);
    assert!(release.await.unwrap());
    let released = bed.attempts(run).await.remove(0);
    assert_eq!(released.result_refusal.as_deref(), refusal);
    claimed(bed, run, 2).await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
    let last = claimed(bed, run, 2).await;
    assert!(last.exhausted);
    assert_eq!(last.result_refusal, None);
}

const REFUSE: [&str; 2] = [
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not s3cret''; END';
     CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW
         WHEN (new.status = 'queued' AND new.tenant_id = 8) EXECUTE FUNCTION refuse()",
    "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs WHEN new.status = 'queued' AND new.tenant_id = 8
         BEGIN SELECT RAISE(ABORT, 'not s3cret'); END",
];

async fn drop_trigger(bed: &Bed, name: &str, table: &str) {
    let on = match bed.is_postgres() {
        true => format!(" ON {table}"),
        false => String::new(),
    };
    bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
}

/// What was recorded on the last attempt of the run.
async fn requeue_refusal(bed: &Bed, run: RunId) -> Option<String> {
    bed.attempts(run).await.pop().unwrap().requeue_refusal
}

pub async fn a_refused_requeue_is_recorded_until_the_run_is_queued(bed: &Bed) {
    let run = bed.queued_for(8, 1).await;
    bed.claim(run, "dead").await;
    bed.exec(REFUSE[usize::from(!bed.is_postgres())]).await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    let attempt = bed.attempts(run).await.remove(0);
    assert_eq!(attempt.end_reason, Some(AttemptEnd::WorkerLost));
    let refusal = attempt.requeue_refusal.unwrap();
    let class = match bed.is_postgres() {
        true => "SQLSTATE P0001, function ",
        false => "SQLite 1811",
    };
    assert!(
        refusal.starts_with(class) && !refusal.contains("s3cret"),
        "{refusal}"
    );
    let named = [refused(run, RefusedWrite::Requeue, &refusal)];
    assert_eq!(refused_runs(bed).await, named);

    drop_trigger(bed, "refuse", "operation_runs").await;
    bed.save(run, "status = 'queued'").await;
    assert_eq!(refused_runs(bed).await, []);
    // The sweep sees that the run is not running, and leaves it out no longer.
    assert_eq!(bed.sweep().await.reclaimed, []);
    bed.save(run, "status = 'running'").await;
    bed.age_run(run, "started_at", 301).await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}

/// Somebody queued the runs between the refusal and the sweep that records it.
pub async fn a_refused_requeue_is_not_recorded_once_the_run_is_queued(bed: &Bed) {
    let (queued, running) = (bed.queued_for(8, 1).await, bed.queued_for(8, 1).await);
    for run in [queued, running] {
        bed.claim(run, "w").await;
    }
    bed.exec(REFUSE[usize::from(!bed.is_postgres())]).await;
    let open = bed.store.open_attempts(&worker("w")).await.unwrap();
    assert_eq!(open.len(), 2);
    let released = bed.store.release_orphaned(&worker("w"), &open).await;
    assert_eq!(released.unwrap(), []);
    drop_trigger(bed, "refuse", "operation_runs").await;
    for run in [queued, running] {
        bed.save(run, "status = 'queued'").await;
    }
    bed.store.heartbeat(&heartbeat("live")).await.unwrap();
    bed.claim(running, "live").await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    assert_eq!(bed.attempts(running).await.len(), 2);
    for run in [queued, running] {
        assert_eq!(requeue_refusal(bed, run).await, None);
    }
}

const KEEP_UNRECORDED: [&str; 2] = [
    "CREATE FUNCTION unrecorded() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END';
     CREATE TRIGGER unrecorded BEFORE UPDATE OF requeue_refusal ON verifyd.run_attempts
         FOR EACH ROW EXECUTE FUNCTION unrecorded()",
    "CREATE TRIGGER unrecorded BEFORE UPDATE OF requeue_refusal ON verifyd_run_attempts
         BEGIN SELECT RAISE(ABORT, 'not today'); END",
];

/// Meanwhile, what the runs are is looked up all the same.
pub async fn what_cannot_be_recorded_of_refused_requeues_is_recorded_later(bed: &Bed) {
    let (refused, freed) = (bed.queued_for(8, 1).await, bed.queued_for(8, 1).await);
    for run in [refused, freed] {
        bed.claim(run, "dead").await;
    }
    bed.unguard().await;
    for triggers in [REFUSE, KEEP_UNRECORDED] {
        bed.exec(triggers[usize::from(!bed.is_postgres())]).await;
    }
    assert_eq!(bed.sweep().await.reclaimed, []);
    bed.save(freed, "tenant_id = 9, status = 'queued'").await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    bed.save(freed, "status = 'running'").await;
    bed.age_run(freed, "started_at", 301).await;
    assert_eq!(bed.sweep().await.reclaimed, [freed]);
    assert_eq!(requeue_refusal(bed, refused).await, None);
    drop_trigger(bed, "unrecorded", &bed.own("run_attempts")).await;
    bed.sweep().await;
    assert!(requeue_refusal(bed, refused).await.is_some());
}

/// Each sweep finds it, also once its attempt has ended.
async fn lost(bed: &Bed, tenant: i64) -> RunId {
    let run = bed.queued_for(tenant, 1).await;
    bed.claim(run, "dead").await;
    bed.age_run(run, "started_at", 301).await;
    run
}

/// Each code stands for a lock, a conflict, a timeout or a server that is read-only, unless a rule raises it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_raises_as_a_conflict_is_recorded_and_left_out() {
    const CODES: [&str; 5] = ["40001", "40P01", "55P03", "57014", "25006"];
    let bed = Bed::postgres().await;
    let mut refused = Vec::new();
    // More than a sweep passes, of each code.
    for (tenant, code) in (8..).zip(CODES) {
        for _ in 0..8 {
            refused.push((lost(&bed, tenant).await, code));
        }
    }
    let other = lost(&bed, 7).await;
    bed.exec(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE 'not today' USING errcode = (ARRAY['{}'])[(new.tenant_id - 7)::int]; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.status = 'queued' AND new.tenant_id > 7) EXECUTE FUNCTION refuse()",
        CODES.join("','")
    ))
    .await;
    let mut reclaimed = Vec::new();
    for _ in &refused {
        reclaimed.extend(bed.sweep().await.reclaimed);
    }
    assert_eq!(reclaimed, [other]);
    for (run, code) in refused {
        let refusal = requeue_refusal(&bed, run).await.unwrap_or_default();
        let class = format!("SQLSTATE {code}, function ");
        assert!(refusal.starts_with(&class), "{code}: {refusal}");
    }
}

/// A row that is not committed yet may take the place in a unique index of the application: no rule refuses the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_for_a_lock_is_not_refused() {
    let bed = Bed::postgres().await;
    let run = lost(&bed, 8).await;
    let other = lost(&bed, 7).await;
    bed.exec("CREATE UNIQUE INDEX ON operation_runs (tenant_id) WHERE status = 'queued'")
        .await;
    let mut writer = bed.pg().begin().await.unwrap();
    let insert = "INSERT INTO operation_runs (workspace_id, tenant_id, type, status)
        VALUES (1, 8, 'another', 'queued')";
    sqlx::query(insert).execute(&mut *writer).await.unwrap();
    assert_eq!(bed.sweep().await.reclaimed, [other]);
    writer.rollback().await.unwrap();
    assert_eq!(requeue_refusal(&bed, run).await, None);
    assert_eq!(refused_runs(&bed).await, []);
}

const HISTORY: &str = "
    INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, outcome, completed_at)
    SELECT n, 1, 7, 'provider.connection.check', 'completed', 'failed', now() FROM generate_series(2, 20000) n;
    INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, started_at)
    VALUES (1, 1, 8, 'provider.connection.check', 'queued', now());
    INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at, ended_at,
        end_reason, result_refusal)
    SELECT n, 1, gen_random_uuid(), 'w', true, now(), now(), now(), 'error',
        CASE WHEN n <= 10000 THEN 'SQLSTATE P0001' END FROM generate_series(1, 20000) n;
    ANALYZE operation_runs; ANALYZE verifyd.run_attempts";

const ROWS_READ: &str = "SELECT sum(seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables
    WHERE relid IN ('operation_runs'::regclass, 'verifyd.run_attempts'::regclass)";

/// 1,000 refused attempts, the last one of each run, and its row. All are of completed runs that came after the open one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_for_refused_runs_passes_no_history() {
    let bed = Bed::postgres().await;
    bed.exec(HISTORY).await;
    let read = counted(&bed, ROWS_READ, async |store| {
        let found = store.refused_runs(1_000).await.unwrap();
        let open = refused(RunId(1), RefusedWrite::Result, "SQLSTATE P0001");
        assert_eq!(found.runs, [open]);
        assert!(found.are_all);
    });
    let read = read.await;
    assert!(read <= 5_000, "read {read} rows");
}
