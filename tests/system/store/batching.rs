//! Calls that come at the same time, which the store may send together: each is answered as if it had
//! come alone, and none takes others down with it.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, blocked, context, refresh, succeeded, worker};
use futures::future::join_all;
use std::collections::HashSet;
use std::time::Duration;
use verifyd::domain::completion::Completion;
use verifyd::domain::permission::PermissionStatus;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, RunId, TenantId};
use verifyd::ports::store::{AttemptEnd, Claim, ClaimAnswer, ClaimPolicy, StoreError};

const MANY: usize = 150;

async fn claimed(bed: &Bed, runs: &[RunId]) -> Vec<Claim> {
    let me = worker("w1");
    join_all(runs.iter().map(|run| bed.store.claim(*run, &me, &POLICY)))
        .await
        .into_iter()
        .map(|answer| answer.unwrap().claimed().expect("it can be claimed"))
        .collect()
}

/// Completes each with a connection and a tenant that several of them share.
async fn completed(bed: &Bed, claims: &[Claim]) -> Vec<Result<bool, StoreError>> {
    completed_as(bed, claims, |_| succeeded()).await
}

async fn completed_as(
    bed: &Bed,
    claims: &[Claim],
    completion: fn(usize) -> Completion,
) -> Vec<Result<bool, StoreError>> {
    join_all(claims.iter().enumerate().map(|(i, claim)| async move {
        let id = claim.run.id.0;
        let mut completion = completion(i);
        completion.connection = Some(ConnectionId(1 + id % 10));
        completion.inventory = Some(refresh(1 + id % 5, &[("A.Read", true), ("B.Read", false)]));
        bed.store.complete(claim, &completion).await
    }))
    .await
}

pub async fn many_are_claimed_and_completed_each_as_if_by_itself(bed: &Bed) {
    let runs = bed.many_queued(MANY).await;
    let claims = claimed(bed, &runs).await;
    let tokens: HashSet<_> = claims.iter().map(|c| c.token).collect();
    assert_eq!(tokens.len(), MANY);
    for (run, claim) in runs.iter().zip(&claims) {
        assert_eq!((claim.run.id, claim.attempt), (*run, 1));
        assert_eq!((claim.counted_attempts, claim.exhausted), (1, false));
        assert_eq!(claim.claimed_at, claim.first_claimed_at);
        assert_eq!(claim.run.request.provider.as_deref(), Some("microsoft"));
    }
    let mut events = bed.store.completions();
    for answer in completed(bed, &claims).await {
        assert!(answer.unwrap());
    }
    // All report the same. Each names connection 1: what is kept of another one may not count.
    let changed = std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| event.changed && event.provider_connection_id == Some(ConnectionId(1)));
    assert_eq!(changed.count(), 1, "only the first one");
    // Each transaction has its own time. By connection or tenant there would be 15 or 30.
    let transactions = "SELECT count(DISTINCT completed_at) FROM operation_runs";
    assert!(bed.number(transactions).await < 15);
    for run in &runs {
        let found = bed.run(*run).await;
        assert_eq!(found.outcome, Some(Outcome::Succeeded));
        assert!(found.report().is_some());
        let attempts = bed.attempts(*run).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].end_reason, Some(AttemptEnd::Completed));
    }
    for tenant in 1..=5 {
        let stored = bed.store.permissions(TenantId(tenant)).await.unwrap();
        assert_eq!(stored.len(), 2);
    }
    for connection in 1..=10 {
        let id = ConnectionId(connection);
        let latest = bed.store.latest_report(id).await.unwrap().unwrap();
        let last = format!(
            "SELECT id FROM operation_runs WHERE 1 + id % 10 = {connection}
             ORDER BY completed_at DESC, id DESC LIMIT 1"
        );
        assert_eq!(latest.operation_run_id.0, bed.number(&last).await);
    }
}

/// Queued and not, due and not, exhausted and not, somebody else's and not there.
pub async fn each_claim_of_many_has_its_own_answer(bed: &Bed) {
    let runs = bed.many_queued(12).await;
    bed.complete(runs[1], &succeeded()).await;
    bed.claim(runs[2], "w0").await;
    let later = bed.claim(runs[3], "w0").await;
    bed.release(
        &later,
        AttemptEnd::Throttled,
        Some(Duration::from_secs(600)),
    )
    .await;
    let again = bed.claim(runs[4], "w0").await;
    bed.release(&again, AttemptEnd::Error, None).await;
    let once = ClaimPolicy {
        max_attempts: 1,
        ..POLICY
    };
    let me = worker("w1");
    let nowhere = RunId(runs[11].0 + 1000);
    let answers = join_all(
        runs.iter()
            .chain([&nowhere, &runs[0]])
            .enumerate()
            .map(|(i, run)| {
                let policy = if i == 4 { &once } else { &POLICY };
                bed.store.claim(*run, &me, policy)
            }),
    )
    .await;
    let answers: Vec<ClaimAnswer> = answers.into_iter().map(Result::unwrap).collect();
    for (i, answer) in answers.iter().enumerate() {
        match i {
            1..=3 | 12 => assert!(
                matches!(answer, ClaimAnswer::NotClaimable),
                "{i}: {answer:?}"
            ),
            4 => assert!(
                matches!(answer, ClaimAnswer::RequiresIsolation),
                "{answer:?}"
            ),
            // Two asked for the first.
            0 | 13 => {}
            _ => assert!(matches!(answer, ClaimAnswer::Claimed(_)), "{i}: {answer:?}"),
        }
    }
    let first = [&answers[0], &answers[13]];
    let won = first
        .iter()
        .filter(|answer| matches!(answer, ClaimAnswer::Claimed(_)));
    assert_eq!(won.count(), 1);
}

pub async fn one_that_is_refused_takes_no_other_with_it(bed: &Bed) {
    let runs = bed.many_queued(20).await;
    let mut claims = claimed(bed, &runs).await;
    claims[7].token = uuid::Uuid::new_v4();
    // The database does not let a run be blocked without a reason.
    let completion = |i| {
        let mut completion = if i == 3 { blocked() } else { succeeded() };
        completion.blocked = None;
        completion
    };
    let answers = completed_as(bed, &claims, completion).await;
    for (i, answer) in answers.into_iter().enumerate() {
        match i {
            3 => assert!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}"),
            7 => assert!(!answer.unwrap()),
            _ => assert!(answer.unwrap(), "{i}"),
        }
    }
}

/// A claim may bring what the check starts from: then it is what asking for it would have given. Of a
/// connection that cannot be read it brings nothing, and is there all the same.
pub async fn what_comes_with_a_claim_is_what_asking_would_give(bed: &Bed) {
    let mut connections = Vec::new();
    for tenant in 1..=3 {
        connections.push(bed.connection(tenant).await);
    }
    let mut runs = Vec::new();
    let [first, second, broken] = [connections[0], connections[1], connections[2]];
    bed.set_credential(first, "sealed").await;
    let nowhere = ConnectionId(broken.0 + 1);
    for connection in [first, first, second, broken, nowhere] {
        let (tenant, context) = (TenantId(connection.0), context(connection.0));
        let run = bed.insert_for(tenant, RUN_TYPE, "queued", &context).await;
        runs.push(run);
    }
    let mut completion = succeeded();
    completion.connection = Some(first);
    bed.complete(runs[0], &completion).await;
    bed.corrupt_connection(broken).await;

    for claim in claimed(bed, &runs[1..]).await {
        let id = claim.run.request.provider_connection_id.unwrap();
        let Some(start) = claim.start else { continue };
        assert_ne!(id, broken);
        assert_ne!(id, nowhere);
        assert_eq!(start.connection.id, id);
        assert_eq!(start.latest_run, (id == first).then_some(runs[0]));
        assert_eq!(start.credential.is_some(), id == first);
        let asked = bed.store.starting_point(id).await.unwrap();
        assert_eq!(asked, Some(start));
    }
    assert!(bed.store.starting_point(broken).await.is_err());
    assert_eq!(bed.store.starting_point(nowhere).await.unwrap(), None);
}

/// A context that is not small is read by itself, one at a time: many of them in one batch would take
/// memory and time from all. What comes with a claim of a batch says which way it went.
#[tokio::test]
async fn a_run_whose_context_is_not_small_is_claimed_by_itself() {
    let bed = Bed::postgres().await;
    let connection = bed.connection(1).await;
    let mut runs = Vec::new();
    for size in [10, 100_000] {
        let mut context = context(connection.0);
        context["large"] = "a".repeat(size).into();
        let run = bed
            .insert_for(TenantId(1), RUN_TYPE, "queued", &context)
            .await;
        runs.push(run);
    }
    let claims = claimed(&bed, &runs).await;
    let with_start: Vec<bool> = claims.iter().map(|claim| claim.start.is_some()).collect();
    assert_eq!(with_start, [true, false]);
}

/// What others have done to the rows is put right, if not at once.
pub async fn an_inventory_is_compared_again_after_a_while(bed: &Bed) {
    let complete = async || {
        let claim = bed.claim(bed.queued().await, "w1").await;
        let mut completion = succeeded();
        completion.inventory = Some(refresh(7, &[("A.Read", true)]));
        assert!(bed.store.complete(&claim, &completion).await.unwrap());
        let stored = bed.store.permissions(TenantId(7)).await.unwrap();
        stored[0].status
    };
    assert_eq!(complete().await, PermissionStatus::Granted);
    bed.exec("UPDATE tenant_permissions SET status = 'missing'")
        .await;
    assert_eq!(complete().await, PermissionStatus::Missing);
    let own = bed.own("tenant_inventory");
    bed.exec(&format!(
        "UPDATE {own} SET compared_at = '2020-01-01T00:00:00.000Z'"
    ))
    .await;
    assert_eq!(complete().await, PermissionStatus::Granted);
}

/// PostgreSQL: in a batch each try of it would have the others sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_completion_was_refused_is_in_no_batch_after_its_release() {
    let bed = Bed::postgres().await;
    let run = bed.queued().await;
    // A rollback does not undo a sequence.
    bed.exec(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM nextval(''tries''); RAISE EXCEPTION ''not today''; END';
         CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.status = 'completed') EXECUTE FUNCTION refuse()",
    )
    .await;
    // In a batch and by itself, then by itself alone.
    for tries in [2, 3] {
        let held = bed.claim(run, "w1").await;
        let refused = bed.store.complete(&held, &succeeded()).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        assert_eq!(bed.number("SELECT last_value FROM tries").await, tries);
        assert!(bed.release(&held, AttemptEnd::Error, None).await);
    }
}

/// PostgreSQL: another transaction holds some of the rows. Nobody waits for them, so they cost no connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_run_holds_up_no_other() {
    let bed = Bed::postgres().await;
    let (runs, w1) = (bed.many_queued(20).await, worker("w1"));
    let mut other = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM operation_runs WHERE id = ANY($1) FOR UPDATE")
        .bind(vec![runs[3].0, runs[4].0])
        .execute(&mut *other)
        .await
        .unwrap();
    let free: Vec<RunId> = runs
        .iter()
        .copied()
        .filter(|run| *run != runs[3] && *run != runs[4])
        .collect();
    let claim_locked = || bed.store.claim(runs[3], &w1, &POLICY);
    let (locked, claims) = futures::join!(claim_locked(), claimed(&bed, &free));
    assert!(matches!(locked.unwrap(), ClaimAnswer::Locked));
    for answer in completed(&bed, &claims).await {
        assert!(answer.unwrap());
    }
    other.commit().await.unwrap();
    assert!(claim_locked().await.unwrap().claimed().is_some());
}

/// PostgreSQL: somebody holds what one tenant's completions have to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_inventory_holds_up_its_own_tenant_only() {
    let bed = Bed::postgres().await;
    let complete = async |tenants: std::ops::RangeInclusive<i64>| {
        let mut tasks = Vec::new();
        for tenant in tenants {
            let held = bed.claim(bed.queued().await, "w1").await;
            let store = bed.store.clone();
            let mut completion = succeeded();
            completion.inventory = Some(refresh(tenant, &[("A.Read", true)]));
            tasks.push(tokio::spawn(async move {
                store.complete(&held, &completion).await.unwrap()
            }));
        }
        tasks
    };
    for task in complete(1..=8).await {
        assert!(task.await.unwrap());
    }
    let mut other = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM verifyd.tenant_inventory WHERE tenant_id = 1 FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    let mut tasks = complete(1..=8).await;
    let waiting = tasks.remove(0);
    // Before the lock is given up: that takes ten minutes.
    let others = tokio::time::timeout(Duration::from_secs(180), join_all(tasks));
    for done in others
        .await
        .expect("they wait for a row that they do not need")
    {
        assert!(done.unwrap());
    }
    assert!(!waiting.is_finished());
    other.commit().await.unwrap();
    assert!(waiting.await.unwrap());
}
