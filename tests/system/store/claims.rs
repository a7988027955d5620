//! `queued` → `running` and back.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, POLICY, at_once, context, failed, succeeded, worker};
use std::time::Duration;
use verifyd::domain::run::{RUN_TYPE, RunRequest};
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{AttemptEnd, Claim, ClaimAnswer, ContextSize, StoreError};

pub async fn a_queued_run_is_claimed_with_a_lease(bed: &Bed) {
    let run = bed.queued().await;
    let claim = bed.claim(run, "w1").await;
    assert_eq!(claim.run.id, run);
    assert_eq!(claim.run.request, RunRequest::from_context(&context(1)));
    assert_eq!(claim.context, ContextSize::Small);
    assert_eq!((claim.attempt, claim.counted_attempts), (1, 1));
    assert!(!claim.exhausted);
    assert_eq!(claim.first_claimed_at, claim.claimed_at);

    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Running);
    assert_eq!(stored.created_at, claim.run.created_at);
    assert_eq!(stored.tenant_id, claim.run.tenant_id);
    assert!(stored.started_at.is_some());
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].worker_id, "w1");
    assert_eq!(attempts[0].claimed_at, claim.claimed_at);
    assert_eq!((attempts[0].ended_at, attempts[0].end_reason), (None, None));
}

pub async fn what_is_not_queued_or_not_ours_is_not_claimed(bed: &Bed) {
    let foreign = bed.insert("backup.restore", "queued", &context(1)).await;
    let running = bed.insert(RUN_TYPE, "running", &context(1)).await;
    let before = bed.dump("operation_runs").await;
    // What is sent with others, and what is sent separately, are statements of their own.
    for policy in [POLICY, ISOLATED] {
        for run in [foreign, running, RunId(987_654_321)] {
            let claimed = bed.store.claim(run, &worker("w1"), &policy).await.unwrap();
            assert!(claimed.claimed().is_none(), "{run}, {policy:?}");
        }
    }
    assert_eq!(bed.dump("operation_runs").await, before);
    assert_eq!(bed.store.run(foreign).await.unwrap(), None);
}

/// Many rounds, six tasks of two replicas each.
pub async fn two_workers_one_run_is_claimed_once(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 0..40 {
        let run = bed.queued().await;
        let answers = at_once(&stores, 6, |store, n| async move {
            store.claim(run, &worker(&format!("w{n}")), &POLICY).await
        })
        .await;
        let claimed = answers.into_iter().map(|answer| answer.unwrap().claimed());
        let won: Vec<Claim> = claimed.flatten().collect();
        assert_eq!(won.len(), 1, "round {round}");
        let attempts = bed.attempts(run).await;
        assert_eq!(attempts.len(), 1, "round {round}");
        assert_eq!(attempts[0].worker_id, won[0].worker.0);
        assert!(bed.store.complete(&won[0], &succeeded()).await.unwrap());
    }
}

pub async fn a_released_run_waits_until_not_before(bed: &Bed) {
    let run = bed.queued().await;
    let first = bed.claim(run, "w1").await;
    let wait = Some(Duration::from_secs(3600));
    assert!(bed.release(&first, AttemptEnd::Throttled, wait).await);
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Queued);
    let started_at = stored.started_at;
    assert!(started_at.is_some());
    let early = bed.store.claim(run, &worker("w2"), &POLICY).await.unwrap();
    assert!(early.claimed().is_none());
    assert_eq!(bed.attempts(run).await.len(), 1);
    let from = bed.store.next_attempt_at(run).await.unwrap().unwrap();
    let after = (from - first.claimed_at).num_seconds();
    assert!((3_600..3_900).contains(&after), "{after}");

    bed.age(
        &bed.own("run_deliveries"),
        "not_before",
        &format!("run_id = {run}"),
        3901,
    )
    .await;
    assert_eq!(bed.store.next_attempt_at(run).await.unwrap(), None);
    let second = bed.claim(run, "w2").await;
    assert_eq!(second.attempt, 2);
    assert_eq!(second.first_claimed_at, first.claimed_at);
    let stored = bed.run(run).await;
    assert_eq!(stored.started_at, started_at);
    assert_ne!(second.token, first.token);
}

pub async fn a_throttled_attempt_does_not_count_and_a_failed_one_does(bed: &Bed) {
    let run = bed.queued().await;
    for (attempt, (end, counted)) in [
        (AttemptEnd::Throttled, 1),
        (AttemptEnd::Shutdown, 1),
        (AttemptEnd::Error, 1),
        (AttemptEnd::Throttled, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let claim = bed.claim(run, "w1").await;
        assert_eq!(claim.attempt, attempt as i32 + 1);
        assert_eq!(claim.counted_attempts, counted, "before {end}");
        assert!(bed.release(&claim, end, None).await);
    }
    let history: Vec<_> = bed
        .attempts(run)
        .await
        .into_iter()
        .map(|a| (a.counted, a.end_reason, a.ended_at.is_some()))
        .collect();
    assert_eq!(
        history,
        [
            (false, Some(AttemptEnd::Throttled), true),
            (false, Some(AttemptEnd::Shutdown), true),
            (true, Some(AttemptEnd::Error), true),
            (false, Some(AttemptEnd::Throttled), true),
        ]
    );
}

pub async fn spent_attempts_make_the_next_claim_exhausted(bed: &Bed) {
    let run = bed.queued().await;
    for counted in 1..=POLICY.max_attempts {
        let claim = bed.claim(run, "w1").await;
        assert_eq!((claim.counted_attempts, claim.exhausted), (counted, false));
        assert!(bed.release(&claim, AttemptEnd::Error, None).await);
    }
    let last = bed.claim(run, "w1").await;
    assert!(last.exhausted);
    assert_eq!(last.counted_attempts, POLICY.max_attempts);
    assert!(!bed.attempts(run).await[3].counted);
    // An exhausted attempt stays uncounted, however it ends.
    assert!(bed.release(&last, AttemptEnd::Error, None).await);
    assert!(!bed.attempts(run).await[3].counted);
    let again = bed.claim(run, "w1").await;
    assert!(again.exhausted);
    assert!(bed.store.complete(&again, &failed()).await.unwrap());
}

pub async fn a_run_put_back_from_outside_supersedes_the_open_attempt(bed: &Bed) {
    let run = bed.queued().await;
    let first = bed.claim(run, "w1").await;
    bed.save(run, "status = 'queued'").await;
    let second = bed.claim(run, "w2").await;
    assert_eq!((second.attempt, second.counted_attempts), (2, 2));
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::Superseded));
    assert!(attempts[0].counted);
    assert!(!bed.store.complete(&first, &succeeded()).await.unwrap());
    assert!(bed.store.complete(&second, &succeeded()).await.unwrap());
}

pub async fn a_release_needs_the_current_token(bed: &Bed) {
    let run = bed.queued().await;
    let first = bed.claim(run, "w1").await;
    assert!(bed.release(&first, AttemptEnd::Error, None).await);
    assert!(!bed.release(&first, AttemptEnd::Error, None).await);
    let second = bed.claim(run, "w2").await;
    let before = bed.dump(&bed.own("run_attempts")).await;
    assert!(!bed.release(&first, AttemptEnd::Shutdown, None).await);
    assert_eq!(bed.dump(&bed.own("run_attempts")).await, before);
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Running);
    assert!(bed.store.complete(&second, &succeeded()).await.unwrap());
}

pub async fn a_release_cannot_end_as_completed(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let refused = bed
        .store
        .release(&held, AttemptEnd::Completed, None, None, false)
        .await;
    assert!(matches!(refused, Err(StoreError::Refused(_))));
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
}

/// In isolation it is not claimed either: without an error it would be tried again at once, and keep the isolation.
pub async fn a_run_whose_row_a_trigger_keeps_is_refused(bed: &Bed) {
    let run = bed.queued().await;
    bed.exec(if bed.is_postgres() {
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.status = 'running') EXECUTE FUNCTION keep()"
    } else {
        "CREATE TRIGGER keep BEFORE UPDATE ON operation_runs WHEN new.status = 'running'
         BEGIN SELECT RAISE(IGNORE); END"
    })
    .await;
    let claimed = bed.store.claim(run, &worker("w1"), &POLICY).await.unwrap();
    assert!(
        matches!(claimed, ClaimAnswer::RequiresIsolation),
        "{claimed:?}"
    );
    let claimed = bed.store.claim(run, &worker("w1"), &ISOLATED).await;
    assert!(
        matches!(claimed, Err(StoreError::Refused(_))),
        "{claimed:?}"
    );
    assert_eq!(bed.run(run).await.status, RunStatus::Queued);
    // One that a batch left behind would count.
    assert_eq!(bed.count(&bed.own("run_attempts")).await, 0);
}

/// SQLite's functions, and the index, take the first one; other readers the last.
#[tokio::test]
async fn a_connection_that_a_context_names_twice_is_not_chosen() {
    let bed = Bed::sqlite().await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) VALUES (1, 7, \
         '{RUN_TYPE}', 'queued', '{{\"provider_connection_id\":1,\"provider_connection_id\":2}}')"
    ))
    .await;
    let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let request = bed.claim(run, "w").await.run.request;
    assert_eq!(request.provider_connection_id, None);
    let named = [("context.provider_connection_id", "this member once")];
    assert_eq!(request.malformed, named);
}
