//! Runs that kill their worker, and attempts that nobody works on: what bounds them.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, POLICY, context, failed, heartbeat, succeeded, worker};
use std::time::Duration;
use verifyd::domain::run::RunRequest;
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{
    AttemptEnd, Claim, ClaimAnswer, ClaimPolicy, ContextSize, MAX_FAILED_COMPLETIONS, OpenAttempt,
    Swept,
};

/// Claims a run and loses it with its worker.
async fn lose(bed: &Bed, run: RunId) -> Claim {
    let held = bed.claim(run, "dead").await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
    held
}

/// What a claim beside others is answered with; it has written nothing if it claimed nothing.
async fn answer(bed: &Bed, run: RunId) -> ClaimAnswer {
    let before = dump(bed).await;
    let answer = bed.store.claim(run, &worker("w"), &POLICY).await;
    let answer = answer.unwrap();
    if !matches!(answer, ClaimAnswer::Claimed(_)) {
        assert_eq!(dump(bed).await, before);
    }
    answer
}

async fn dump(bed: &Bed) -> Vec<Vec<String>> {
    let mut tables = Vec::new();
    for table in ["run_attempts", "run_deliveries"] {
        tables.push(contents(bed, &bed.own(table)).await);
    }
    tables.push(contents(bed, "operation_runs").await);
    tables
}

/// Without the place and age of the row's versions: a rolled back UPDATE leaves its mark in `xmax`.
async fn contents(bed: &Bed, table: &str) -> Vec<String> {
    let rows = bed.dump(table).await;
    rows.into_iter()
        .map(|row| match row.rsplit_once('}') {
            Some((content, _)) if row.starts_with('{') => content.to_owned(),
            _ => row,
        })
        .collect()
}

pub async fn the_last_attempt_is_claimed_in_isolation_only(bed: &Bed) {
    let run = bed.queued().await;
    let first = answer(bed, run).await.claimed().unwrap();
    assert_eq!((first.attempt, first.exhausted), (1, false));
    assert_eq!(bed.sweep().await.reclaimed, [run]);
    let second = answer(bed, run).await.claimed().unwrap();
    assert_eq!((second.attempt, second.exhausted), (2, false));
    assert_eq!(bed.sweep().await.reclaimed, [run]);
    // One is left.
    assert!(matches!(
        answer(bed, run).await,
        ClaimAnswer::RequiresIsolation
    ));
    let last = lose(bed, run).await;
    assert_eq!((last.attempt, last.exhausted), (3, false));
    // None is left.
    assert!(matches!(
        answer(bed, run).await,
        ClaimAnswer::RequiresIsolation
    ));
    let end = bed.claim(run, "w").await;
    assert!(end.exhausted && !end.forced_completion);
    assert!(bed.store.complete(&end, &failed()).await.unwrap());
    assert!(matches!(answer(bed, run).await, ClaimAnswer::NotClaimable));
}

pub async fn a_last_attempt_without_a_lost_worker_needs_no_isolation(bed: &Bed) {
    let run = bed.queued().await;
    for end in [AttemptEnd::Error, AttemptEnd::Throttled, AttemptEnd::Error] {
        let held = answer(bed, run).await.claimed().unwrap();
        assert!(bed.release(&held, end, None).await);
    }
    let last = answer(bed, run).await.claimed().unwrap();
    assert_eq!((last.counted_attempts, last.exhausted), (3, false));
    // With a single attempt allowed, a run that was never tried is no suspect.
    let other = bed.queued().await;
    let once = ClaimPolicy {
        max_attempts: 1,
        ..POLICY
    };
    let only = bed.store.claim(other, &worker("w"), &once).await.unwrap();
    assert!(only.claimed().is_some());
}

pub async fn failed_completions_back_off_and_end_in_a_forced_completion(bed: &Bed) {
    let run = bed.queued().await;
    for _ in 0..POLICY.max_attempts {
        lose(bed, run).await;
    }
    for n in 1..=MAX_FAILED_COMPLETIONS {
        let held = bed.claim(run, "dead").await;
        assert!(held.exhausted && !held.forced_completion);
        assert_eq!(held.run.request, RunRequest::from_context(&context(1)));
        // One is lost with its worker, one is released, one fails.
        match n {
            1 => {
                let swept = bed.sweep().await;
                assert_eq!((swept.reclaimed, swept.due), (vec![run], vec![]));
            }
            2 => assert_eq!(release_orphaned(bed, &held).await, [run]),
            _ => {
                let wait = Some(Duration::from_secs(60));
                let end = AttemptEnd::Error;
                assert!(bed.release(&held, end, wait).await);
            }
        }
        assert_eq!(bed.sweep().await, Swept::default());
        assert!(matches!(answer(bed, run).await, ClaimAnswer::NotClaimable));
        let deliveries = bed.own("run_deliveries");
        if n < 3 {
            // Not over before 2 and 4 seconds, as far as a slow machine can say.
            bed.age(&deliveries, "not_before", "1 = 1", 1 << n).await;
        } else {
            bed.age(&deliveries, "not_before", "1 = 1", 60).await;
        }
        assert_eq!(bed.sweep().await.due, [run]);
    }
    assert!(matches!(
        answer(bed, run).await,
        ClaimAnswer::RequiresIsolation
    ));
    // More attempts, allowed later, do not lead back.
    let patient = ClaimPolicy {
        max_attempts: 10,
        ..ISOLATED
    };
    let last = bed.store.claim(run, &worker("w"), &patient).await.unwrap();
    let last = last.claimed().unwrap();
    assert!(last.exhausted && last.forced_completion);
    assert_eq!((last.attempt, last.counted_attempts), (7, 3));
    assert_eq!(last.run.request, RunRequest::default());
    assert_eq!(last.context, ContextSize::Unknown);
    assert!(bed.store.complete(&last, &failed()).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Completed);
    assert_eq!(stored.context["note"], context(1)["note"]);
}

/// Valid for the database, and too much for whoever reads numbers of double precision. What the check
/// needs is read all the same.
pub async fn a_context_that_cannot_be_read_does_not_keep_the_run(bed: &Bed) {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for n in ["1e999", &deep] {
        let context = format!(r#"{{"provider": "microsoft", "n": {n}}}"#);
        bed.exec(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             VALUES (1, 7, 'provider.connection.check', 'queued', '{context}')"
        ))
        .await;
        let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
        let held = bed.claim(run, "w").await;
        assert_eq!(held.run.request.provider.as_deref(), Some("microsoft"));
        assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
        let stored = bed.run(run).await;
        assert_eq!(stored.status, RunStatus::Completed);
        assert!(stored.report().is_some());
        assert_eq!(stored.context["provider"], "microsoft");
    }
}

async fn release_orphaned(bed: &Bed, held: &Claim) -> Vec<RunId> {
    let attempt = OpenAttempt {
        run: held.run.id,
        token: held.token,
    };
    let released = bed.store.release_orphaned(&held.worker, &[attempt]).await;
    released.unwrap()
}

pub async fn a_worker_releases_its_orphans(bed: &Bed) {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    bed.store.heartbeat(&heartbeat("w2")).await.unwrap();
    let (lost, kept, others) = (bed.queued().await, bed.queued().await, bed.queued().await);
    assert_eq!(bed.sweep().await.due, [lost, kept, others]);
    let first = bed.claim(lost, "w1").await;
    let second = bed.claim(kept, "w1").await;
    let third = bed.claim(others, "w2").await;
    let open = bed.store.open_attempts(&worker("w1")).await.unwrap();
    let expected = [&first, &second].map(|held| OpenAttempt {
        run: held.run.id,
        token: held.token,
    });
    assert_eq!(open, expected);
    assert_eq!(bed.sweep().await, Swept::default());

    assert_eq!(release_orphaned(bed, &first).await, [lost]);
    let attempts = bed.attempts(lost).await;
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::WorkerLost));
    assert!(attempts[0].counted);
    assert!(!bed.store.complete(&first, &succeeded()).await.unwrap());
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (vec![], vec![lost]));
    for held in [&second, &third] {
        assert!(bed.store.complete(held, &succeeded()).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_whose_rule_ends_the_transaction_keeps_no_other() {
    let bed = Bed::sqlite().await;
    for tenant in [8, 7, 8] {
        let run = bed.queued_for(tenant, 1).await;
        bed.claim(run, "w1").await;
    }
    bed.exec(
        "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs
             WHEN new.status = 'queued' AND new.tenant_id = 8
             BEGIN SELECT RAISE(ROLLBACK, 'not today'); END",
    )
    .await;
    let open = bed.store.open_attempts(&worker("w1")).await.unwrap();
    let released = bed.store.release_orphaned(&worker("w1"), &open).await;
    assert_eq!(released.unwrap(), [open[1].run]);
}

pub async fn only_its_own_orphans_are_released(bed: &Bed) {
    let (run, done) = (bed.queued().await, bed.queued().await);
    let old = lose(bed, run).await;
    let current = bed.claim(run, "w1").await;
    let completed = bed.claim(done, "w1").await;
    assert!(bed.store.complete(&completed, &succeeded()).await.unwrap());
    let foreign = Claim {
        worker: worker("w2"),
        ..current.clone()
    };
    let before = dump(bed).await;
    for held in [&old, &completed, &foreign] {
        assert_eq!(release_orphaned(bed, held).await, []);
    }
    let none = bed.store.release_orphaned(&worker("w1"), &[]).await;
    assert_eq!(none.unwrap(), []);
    assert_eq!(dump(bed).await, before);
    // Somebody else has ended the run: that is not undone.
    bed.save(
        run,
        "status = 'completed', outcome = 'failed', \
         completed_at = started_at",
    )
    .await;
    assert_eq!(release_orphaned(bed, &current).await, []);
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Completed);
}
