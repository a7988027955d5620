//! What the database refuses of runs: results, and to queue them again.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, POLICY, failed, worker};
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
    bed.store.refused_runs(1_000).await.unwrap()
}

pub async fn a_refused_result_is_known_to_the_last_claim(bed: &Bed) {
    const REFUSAL: &str = "SQLSTATE 23514, constraint small";
    let other = bed.queued().await;
    bed.claim(other, "w").await;
    let run = bed.queued_for(8, 1).await;
    let claim = async |policy: ClaimPolicy| {
        let policy = ClaimPolicy {
            max_attempts: 1,
            ..policy
        };
        let answer = bed.store.claim(run, &worker("w"), &policy).await;
        answer.unwrap().claimed().unwrap()
    };
    let held = claim(POLICY).await;
    assert_eq!(held.result_refusal, None);
    let forged = Claim {
        token: Uuid::new_v4(),
        ..held.clone()
    };
    let note = async |claim: &Claim| bed.store.note_refused_result(claim, REFUSAL).await.unwrap();
    note(&forged).await;
    assert_eq!(bed.attempts(run).await[0].result_refusal, None);
    note(&held).await;
    let noted = bed.attempts(run).await.remove(0);
    assert_eq!(noted.result_refusal.as_deref(), Some(REFUSAL));
    assert_eq!(noted.ended_at, None);
    assert!(bed.release(&held, AttemptEnd::Error, None).await);
    let named = [refused(run, RefusedWrite::Result, REFUSAL)];
    assert_eq!(refused_runs(bed).await, named);

    let last = claim(ISOLATED).await;
    assert!(last.exhausted);
    assert_eq!(last.result_refusal.as_deref(), Some(REFUSAL));
    // Until it has ended, the one before it is the last.
    assert_eq!(refused_runs(bed).await, named);
    assert!(bed.store.complete(&last, &failed()).await.unwrap());
    assert_eq!(refused_runs(bed).await, []);
}

const REFUSE: [&str; 2] = [
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not s3cret''; END';
     CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW
         WHEN (new.status = 'queued' AND new.tenant_id = 8) EXECUTE FUNCTION refuse()",
    "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs WHEN new.status = 'queued' AND new.tenant_id = 8
         BEGIN SELECT RAISE(ABORT, 'not s3cret'); END",
];

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

    let on = match bed.is_postgres() {
        true => " ON operation_runs",
        false => "",
    };
    bed.exec(&format!("DROP TRIGGER refuse{on}")).await;
    bed.save(run, "status = 'queued'").await;
    assert_eq!(refused_runs(bed).await, []);
    // The sweep sees that the run is not running, and leaves it out no longer.
    assert_eq!(bed.sweep().await.reclaimed, []);
    bed.save(run, "status = 'running'").await;
    bed.age_run(run, "started_at", 301).await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}
