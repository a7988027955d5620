//! An id that is given to another run or connection: after TRUNCATE … RESTART IDENTITY, in a restored backup.
//! Nothing that belongs to the one before counts for it.

use crate::store::acknowledgements::{accept, through};
use crate::store::bed::Bed;
use crate::store::fixtures::{context, failed, new_run, quoted, refresh, report_of, succeeded};
use crate::store::tokens_and_sessions::{key_owner, reserve};
use std::time::Duration;
use verifyd::domain::acknowledgement::Acknowledgement;
use verifyd::domain::completion::Completion;
use verifyd::domain::connection_facts::{ConnectionFacts, KeptFacts};
use verifyd::domain::report::CheckStatus;
use verifyd::domain::{ConnectionId, Outcome, RunId, TenantId, TokenId};
use verifyd::ports::access::{AnswerSubject, Reserved};
use verifyd::ports::overview::ConnectionState;
use verifyd::ports::plan::PlanFilter;
use verifyd::ports::store::{AttemptEnd, Claim};

/// The row goes, and another one of the same id comes, with further columns.
async fn give_again_with(bed: &Bed, run: RunId, tenant: i64, columns: &str, values: &str) {
    let context = quoted(&context(1));
    bed.unguard().await;
    bed.exec(&format!(
        "DELETE FROM operation_runs WHERE id = {run}; \
         INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context{columns}) \
         VALUES ({run}, 1, {tenant}, 'provider.connection.check', 'queued', '{context}'{values})"
    ))
    .await;
}

async fn give_again(bed: &Bed, run: RunId) {
    give_again_with(bed, run, 7, "", "").await;
}

/// Claims, and gives back so that it counts.
async fn attempt(bed: &Bed, run: RunId) -> Claim {
    let held = bed.claim(run, "w1").await;
    assert!(bed.release(&held, AttemptEnd::Error, None).await);
    held
}

async fn complete(bed: &Bed, held: &Claim, completion: &Completion) {
    assert!(bed.store.complete(held, completion).await.unwrap());
}

pub async fn attempts_of_an_earlier_run_never_count(bed: &Bed) {
    let run = bed.queued().await;
    for round in 0..4 {
        for own in 1..=3 {
            let held = attempt(bed, run).await;
            assert!(!held.exhausted, "round {round}");
            assert_eq!(held.counted_attempts, own);
            // The number is new among all that the id has had, and is shown from 1.
            assert_eq!(held.attempt, round * 4 + own as i32);
            assert_eq!(held.own_attempt, own);
            assert!(held.first_claimed_at <= held.claimed_at);
            let shown: Vec<i32> = bed.attempts(run).await.iter().map(|a| a.attempt).collect();
            assert_eq!(shown, (1..=own as i32).collect::<Vec<_>>());
        }
        let held = bed.claim(run, "w1").await;
        assert!(held.exhausted);
        complete(bed, &held, &failed()).await;
        assert_eq!(bed.attempts(run).await.len(), 4);
        give_again(bed, run).await;
        assert_eq!(bed.attempts(run).await, []);
    }
    // Also where the run before was not completed.
    attempt(bed, run).await;
    attempt(bed, run).await;
    give_again(bed, run).await;
    let held = bed.claim(run, "w1").await;
    assert_eq!(held.counted_attempts, 1);
    assert_eq!(held.first_claimed_at, held.claimed_at);
}

pub async fn an_open_attempt_of_an_earlier_run_is_worth_nothing(bed: &Bed) {
    let run = bed.queued().await;
    let before = bed.claim(run, "w1").await;
    bed.age(&bed.own("run_attempts"), "claimed_at", "true", 60)
        .await;
    give_again(bed, run).await;
    assert_eq!(bed.attempts(run).await, []);
    let held = bed.claim(run, "w2").await;
    assert_eq!(held.counted_attempts, 1);
    assert!(!bed.store.complete(&before, &succeeded()).await.unwrap());
    assert_eq!(bed.attempts(run).await.len(), 1);
    complete(bed, &held, &succeeded()).await;
}

/// An application that saves the row as it once read it takes the time of the first claim away.
pub async fn an_attempt_of_its_own_counts_without_the_time_of_the_first_claim(bed: &Bed) {
    let run = bed.queued().await;
    let before = bed.claim(run, "w1").await;
    bed.save(run, "status = 'queued', started_at = NULL").await;
    let held = bed.claim(run, "w2").await;
    assert_eq!(held.counted_attempts, 2);
    assert!(!bed.store.complete(&before, &succeeded()).await.unwrap());
    complete(bed, &held, &succeeded()).await;
    assert_eq!(bed.attempts(run).await.len(), 2);
}

pub async fn a_restored_backup_begins_with_no_attempt(bed: &Bed) {
    let run = bed.queued().await;
    attempt(bed, run).await;
    attempt(bed, run).await;
    bed.complete(run, &succeeded()).await;
    // As it was between two attempts.
    let started = format!("SELECT CAST(started_at AS text) FROM operation_runs WHERE id = {run}");
    let started = bed.text(&started).await;
    give_again_with(bed, run, 7, ", started_at", &format!(", '{started}'")).await;
    assert_eq!(bed.attempts(run).await, []);
    let held = bed.claim(run, "w1").await;
    assert_eq!((held.exhausted, held.counted_attempts), (false, 1));
    complete(bed, &held, &succeeded()).await;
    assert_eq!(bed.attempts(run).await.len(), 1);
}

/// A completed row is put back after its id was given to another run.
pub async fn attempts_that_began_after_a_completion_are_not_its_own(bed: &Bed) {
    let run = bed.queued().await;
    attempt(bed, run).await;
    bed.complete(run, &succeeded()).await;
    bed.age_run(run, "started_at", 3600).await;
    // A column may hold whole seconds.
    bed.age_run(run, "completed_at", 1).await;
    assert_eq!(bed.attempts(run).await.len(), 2);
    bed.age_run(run, "completed_at", 60).await;
    assert_eq!(bed.attempts(run).await, []);
    // Completed before it was started: a clock was set back.
    let set_back = format!("UPDATE operation_runs SET started_at = created_at WHERE id = {run}");
    bed.exec(&set_back).await;
    assert_eq!(bed.attempts(run).await.len(), 2);

    // The same for an attempt that is still open.
    let run = bed.queued().await;
    bed.claim(run, "w1").await;
    bed.exec(&format!(
        "UPDATE operation_runs SET status = 'completed', outcome = 'succeeded', \
         completed_at = created_at WHERE id = {run}"
    ))
    .await;
    assert_eq!(bed.attempts(run).await.len(), 1);
    bed.age_run(run, "started_at", 3600).await;
    bed.age_run(run, "completed_at", 60).await;
    assert_eq!(bed.attempts(run).await, []);
}

pub async fn a_start_that_a_producer_wrote_is_not_taken_for_a_claim(bed: &Bed) {
    let run = bed.queued().await;
    for _ in 0..3 {
        attempt(bed, run).await;
    }
    bed.age(&bed.own("run_attempts"), "claimed_at", "true", 60)
        .await;
    give_again_with(bed, run, 7, ", started_at", ", CURRENT_TIMESTAMP").await;
    let held = bed.claim(run, "w1").await;
    assert_eq!((held.exhausted, held.counted_attempts), (false, 1));
}

pub async fn what_an_earlier_run_waited_for_is_over(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let hour = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, hour).await);
    give_again(bed, run).await;
    let swept = bed.sweep().await;
    assert_eq!(swept.due, [run]);
    let swept = bed.sweep().await;
    assert_eq!(swept.due, []);
    let held = bed.claim(run, "w1").await;
    // What it waits for itself is kept.
    assert!(bed.release(&held, AttemptEnd::Throttled, hour).await);
    let swept = bed.sweep().await;
    assert_eq!(swept.due, []);

    // Nor does the wait come back when the first claim was lost.
    give_again(bed, run).await;
    let held = bed.claim(run, "w1").await;
    assert!(bed.release(&held, AttemptEnd::Shutdown, None).await);
    bed.claim(run, "w1").await;
}

pub async fn a_hint_of_an_earlier_run_is_not_taken_for_its_own(bed: &Bed) {
    let run = bed.queued().await;
    let swept = bed.sweep().await;
    assert_eq!(swept.due, [run]);
    bed.age(&bed.own("run_deliveries"), "delivered_at", "true", 60)
        .await;
    give_again(bed, run).await;
    let swept = bed.sweep().await;
    assert_eq!(swept.due, [run]);
    let swept = bed.sweep().await;
    assert_eq!(swept.due, []);
}

pub async fn recording_bears_what_an_earlier_run_has_left(bed: &Bed) {
    let first = bed.recorded(1).await;
    let deliveries = bed.own("run_deliveries");
    bed.exec(&format!("UPDATE {deliveries} SET delivered_at = NULL"))
        .await;
    for several in [false, true] {
        bed.restart_runs().await;
        let again = match several {
            false => bed.recorded(1).await,
            true => bed.store.record_many(&[new_run(1)]).await.unwrap()[0],
        };
        assert_eq!(again, first);
        let delivered = format!("{deliveries} WHERE delivered_at IS NOT NULL");
        assert_eq!(bed.count(&delivered).await, 1);
    }
}

/// A connection of tenant 7 that has id 1, and a completed run of it.
async fn checked(bed: &Bed) -> (ConnectionId, RunId, Completion) {
    let id = bed.connection(7).await;
    assert_eq!(id, ConnectionId(1));
    let run = bed.queued().await;
    let mut completion = succeeded();
    completion.connection = Some(id);
    bed.complete(run, &completion).await;
    (id, run, completion)
}

async fn previous(bed: &Bed, id: ConnectionId) -> Option<RunId> {
    let start = bed.store.starting_point(id).await.unwrap().unwrap();
    // Whoever claims a run is told the same.
    let run = bed.queued().await;
    let held = bed.claim(run, "w9").await;
    if let Some(with_claim) = &held.start {
        assert_eq!(with_claim.latest_run, start.latest_run);
    }
    bed.delete_run(run).await;
    start.latest_run
}

pub async fn a_report_is_compared_with_none_of_an_earlier_run(bed: &Bed) {
    let (id, run, completion) = checked(bed).await;
    assert_eq!(previous(bed, id).await, Some(run));
    give_again(bed, run).await;
    assert_eq!(previous(bed, id).await, None);
    assert_eq!(bed.store.latest_report(id).await.unwrap(), None);
    // The same report of another run is a first one.
    bed.complete(run, &completion).await;
    let latest = bed.own("latest_reports");
    let changed = format!("{latest} WHERE changed AND NOT acknowledged");
    let at_all = changed.replace("AND NOT acknowledged", "");
    assert_eq!(bed.count(&at_all).await, 1);
    assert_eq!(previous(bed, id).await, Some(run));
    let again = bed.completed(&completion).await;
    assert_eq!(bed.count(&changed).await, 0);
    // One that does not hold the report any more is none to be compared with.
    bed.exec(&format!(
        "UPDATE operation_runs SET context = '{}' WHERE id = {again}",
        quoted(&context(1))
    ))
    .await;
    assert_eq!(previous(bed, id).await, None);
}

pub async fn a_connection_s_id_that_another_tenant_gets_has_no_report(bed: &Bed) {
    let (id, _, completion) = checked(bed).await;
    bed.exec(
        "DELETE FROM provider_connections; \
         INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, entra_tenant_id) \
         VALUES (1, 1, 8, 'microsoft', '5c000000-0000-4000-8000-000000000001')",
    )
    .await;
    assert_eq!(previous(bed, id).await, None);
    assert_eq!(bed.store.latest_report(id).await.unwrap(), None);
    let everything = Default::default();
    let state = bed.store.connection_state(id, &everything).await.unwrap();
    assert!(state.unwrap().latest_report.is_none());
    let counts = bed.store.connection_counts(&everything).await.unwrap();
    assert_eq!((counts.ready, counts.never_checked), (0, 1));
    assert_eq!(bed.store.trend(&[id], 5).await.unwrap(), []);
    // Its first report is a change.
    let run = bed.queued_for(8, 1).await;
    bed.complete(run, &completion).await;
    let changed = format!("{} WHERE changed", bed.own("latest_reports"));
    assert_eq!(bed.count(&changed).await, 1);
    assert_eq!(bed.store.trend(&[id], 5).await.unwrap().len(), 1);
}

async fn state(bed: &Bed, id: ConnectionId) -> ConnectionState {
    let state = bed.store.connection_state(id, &Default::default()).await;
    state.unwrap().unwrap()
}

/// The connection through which the inventory of its tenant was read, for a plan.
async fn inventory_read_by(bed: &Bed, id: ConnectionId) -> Option<ConnectionId> {
    let filter = PlanFilter {
        provider: "microsoft".into(),
        limit: 1000,
        ..PlanFilter::default()
    };
    let subjects = bed.store.plan_subjects(&filter).await.unwrap();
    let mut own = subjects.into_iter().filter(|s| s.connection.id == id);
    own.next().unwrap().grants.unwrap().read_by
}

/// What checks have left is of an hour ago.
async fn age_what_checks_left(bed: &Bed) {
    for (table, column) in [
        ("operation_runs".to_owned(), "completed_at"),
        (bed.own("latest_reports"), "completed_at"),
        (bed.own("connection_facts"), "found_at"),
        (bed.own("tenant_inventory"), "refreshed_at"),
        (bed.own("carried_acknowledgements"), "from_completed_at"),
    ] {
        bed.age(&table, column, "true", 3600).await;
    }
}

pub async fn what_was_completed_before_a_connection_was_created_is_not_its_own(bed: &Bed) {
    let id = bed.connection_with(7, "payload").await;
    assert_eq!(id, ConnectionId(1));
    let (connection, _) = bed.store.connection(id).await.unwrap().unwrap();
    let facts = ConnectionFacts {
        entra_tenant_name: Some("Contoso".into()),
        ..ConnectionFacts::default()
    };
    let kept = KeptFacts::of(&connection, None, facts);
    bed.store.keep_facts(&kept).await.unwrap();
    let mut completion = failed();
    completion.connection = Some(id);
    completion.inventory = Some(refresh(7, &[("A.Read", true)]));
    let first = bed.completed(&completion).await;
    acknowledge(bed, first, id).await;
    let last = bed.completed(&completion).await;
    let acknowledged = async |run| bed.store.acknowledgements_of(run).await.unwrap().len();
    age_what_checks_left(bed).await;
    bed.age("provider_connections", "created_at", "true", 7200)
        .await;
    assert_eq!(acknowledged(last).await, 1);
    assert_eq!(previous(bed, id).await, Some(last));
    assert!(state(bed, id).await.facts.entra_tenant_name.is_some());
    assert_eq!(inventory_read_by(bed, id).await, Some(id));

    // A later connection with the same id, of the same tenant: only its time of creation is another one.
    bed.exec("UPDATE provider_connections SET created_at = updated_at")
        .await;
    assert_eq!(previous(bed, id).await, None);
    assert_eq!(bed.store.latest_report(id).await.unwrap(), None);
    let shown = state(bed, id).await;
    assert_eq!(shown.latest_report, None);
    assert_eq!(shown.facts.entra_tenant_name, None);
    let everything = Default::default();
    let counts = bed.store.connection_counts(&everything).await.unwrap();
    assert_eq!((counts.failed, counts.never_checked), (0, 1));
    assert_eq!(bed.store.trend(&[id], 5).await.unwrap(), []);
    let start = bed.store.starting_point(id).await.unwrap().unwrap();
    assert_eq!(start.facts, None);
    assert_ne!(inventory_read_by(bed, id).await, Some(id));
    // The run of the earlier connection stays as it was.
    assert_eq!(acknowledged(last).await, 1);

    // Its first report is a change, and nothing of it was acknowledged.
    let own = bed.completed(&completion).await;
    let latest = format!("{} WHERE changed", bed.own("latest_reports"));
    assert_eq!(bed.count(&latest).await, 1);
    assert_eq!(acknowledged(own).await, 0);
    assert_eq!(previous(bed, id).await, Some(own));
    assert_eq!(bed.store.trend(&[id], 5).await.unwrap().len(), 1);
    assert_eq!(inventory_read_by(bed, id).await, Some(id));
}

pub async fn a_time_of_creation_that_is_none_hides_no_report(bed: &Bed) {
    let (id, run, _) = checked(bed).await;
    age_what_checks_left(bed).await;
    assert_eq!(previous(bed, id).await, None);
    let mut times = vec!["'2999-01-01T00:00:00.000Z'", "'2001-01-01T00:00:00.000Z'"];
    if bed.is_postgres() {
        bed.exec("ALTER TABLE provider_connections ALTER COLUMN created_at DROP NOT NULL")
            .await;
        times.extend(["'infinity'", "'-infinity'", "'290000-01-01'", "NULL"]);
    } else {
        times.extend(["'never'", "''"]);
    }
    for time in times {
        bed.exec(&format!(
            "UPDATE provider_connections SET created_at = {time}"
        ))
        .await;
        assert_eq!(previous(bed, id).await, Some(run), "{time}");
        let latest = bed.store.latest_report(id).await.unwrap();
        assert_eq!(latest.unwrap().operation_run_id, run, "{time}");
    }
    if bed.is_postgres() {
        // An application may write local times, hours ahead.
        bed.exec("ALTER TABLE provider_connections ALTER COLUMN created_at TYPE timestamp")
            .await;
        bed.exec("UPDATE provider_connections SET created_at = now()")
            .await;
        assert_eq!(previous(bed, id).await, Some(run));
    }
}

async fn acknowledge(bed: &Bed, run: RunId, id: ConnectionId) -> Acknowledgement {
    let reason = failed().failure_summary[0].reason_code;
    let said = ("connection.state", CheckStatus::Fail, Some(reason));
    let (made, created) = bed
        .store
        .acknowledge(&accept(run, id.0, said))
        .await
        .unwrap()
        .unwrap();
    assert!(created);
    made
}

pub async fn acknowledgements_of_an_earlier_run_are_not_its_own(bed: &Bed) {
    let (id, run, _) = checked(bed).await;
    let mut completion = failed();
    completion.connection = Some(id);
    assert_eq!(completion.outcome, Outcome::Failed);
    give_again(bed, run).await;
    bed.complete(run, &completion).await;
    let made = acknowledge(bed, run, id).await;
    let of = async |run| bed.store.acknowledgements_of(run).await.unwrap();
    assert_eq!(of(run).await.len(), 1);
    let acknowledgements = "verification_check_acknowledgements";
    bed.age(acknowledgements, "acknowledged_at", "true", 60)
        .await;
    bed.age(
        &bed.own("carried_acknowledgements"),
        "from_completed_at",
        "true",
        60,
    )
    .await;
    for _ in 0..2 {
        give_again(bed, run).await;
        assert_eq!(of(run).await, []);
        bed.complete(run, &completion).await;
        assert_eq!(of(run).await, []);
        assert_eq!(bed.store.acknowledgement(made.id).await.unwrap(), None);
        let withdrawn = bed.store.withdraw(made.id, "eve", &through().into()).await;
        assert_eq!(withdrawn.unwrap(), None);
        let later = bed.completed(&completion).await;
        assert_eq!(of(later).await, []);
    }
    // The same check of the run that is there now can be acknowledged.
    acknowledge(bed, run, id).await;
    assert_eq!(of(run).await.len(), 1);
    assert!(report_of(&completion)["checks"].is_array());
}

pub async fn an_inventory_that_an_earlier_run_has_read_is_written_again(bed: &Bed) {
    let run = bed.queued().await;
    let mut completion = succeeded();
    completion.inventory = Some(refresh(7, &[("one", true), ("two", false)]));
    bed.complete(run, &completion).await;
    let there = "tenant_permissions WHERE tenant_id = 7";
    for id in [run, RunId(run.0 + 100)] {
        bed.exec("DELETE FROM tenant_permissions; DELETE FROM operation_runs")
            .await;
        give_again(bed, id).await;
        bed.complete(id, &completion).await;
        assert_eq!(bed.count(there).await, 2);
    }
    // While the run that read it is there, the digest stands for the rows.
    let later = bed.queued().await;
    let held = bed.claim(later, "w1").await;
    bed.exec("DELETE FROM tenant_permissions").await;
    complete(bed, &held, &completion).await;
    assert_eq!(bed.count(there).await, 0);
    let fresh = bed.store.inventory_freshness(TenantId(7)).await;
    assert!(fresh.unwrap().is_some());
    give_again_with(bed, later, 8, "", "").await;
    assert_eq!(
        bed.store.inventory_freshness(TenantId(7)).await.unwrap(),
        None
    );
}

/// Answers the first request under the key `k`.
async fn answer(bed: &Bed, owner: TokenId, subject: AnswerSubject) {
    assert_eq!(reserve(bed, owner, "k", "a").await, Reserved::First);
    let kept = bed.store.answer_key(owner, "k", 201, "{}", subject).await;
    kept.unwrap();
    assert_ne!(reserve(bed, owner, "k", "a").await, Reserved::First);
}

pub async fn an_answer_about_an_earlier_run_is_none(bed: &Bed) {
    let owner = key_owner(bed).await;
    let again = async || reserve(bed, owner, "k", "a").await;
    let run = bed.queued().await;
    answer(bed, owner, AnswerSubject::Run(run)).await;
    // Both times as they were an hour ago.
    let keys = bed.own("idempotency_keys");
    bed.age(&keys, "subject_at", "true", 3600).await;
    bed.age_run(run, "created_at", 3600).await;
    let first = Reserved::Answered {
        status: 201,
        body: "{}".into(),
    };
    assert_eq!(again().await, first);
    give_again(bed, run).await;
    assert_eq!(reserve(bed, owner, "k", "b").await, Reserved::Mismatch);
    assert_eq!(again().await, Reserved::First);
    assert_eq!(again().await, Reserved::InProgress);
    bed.store.release_key(owner, "k").await.unwrap();

    answer(bed, owner, AnswerSubject::Run(run)).await;
    bed.delete_run(run).await;
    assert_eq!(again().await, Reserved::First);
}

pub async fn an_answer_about_an_acknowledgement_that_is_gone_is_none(bed: &Bed) {
    let owner = key_owner(bed).await;
    let again = async || reserve(bed, owner, "k", "a").await;
    let run = bed.completed(&failed()).await;
    let one = AnswerSubject::Acknowledgement(acknowledge(bed, run, ConnectionId(1)).await.id);
    answer(bed, owner, one).await;
    // Of a run that is another one.
    bed.age(
        "verification_check_acknowledgements",
        "acknowledged_at",
        "true",
        3600,
    )
    .await;
    bed.age(&bed.own("idempotency_keys"), "subject_at", "true", 3600)
        .await;
    assert_eq!(again().await, Reserved::First);
    bed.store.release_key(owner, "k").await.unwrap();

    let two = AnswerSubject::Acknowledgement(acknowledge(bed, run, ConnectionId(1)).await.id);
    answer(bed, owner, two).await;
    bed.exec("DELETE FROM verification_check_acknowledgements")
        .await;
    assert_eq!(again().await, Reserved::First);
}

pub async fn what_is_queued_is_told(bed: &Bed) {
    let run = bed.completed(&succeeded()).await;
    let other = bed.queued().await;
    let asked = [run, other, RunId(999)];
    assert_eq!(bed.store.still_queued(&asked).await.unwrap(), [other]);
    give_again(bed, run).await;
    let mut queued = bed.store.still_queued(&asked).await.unwrap();
    queued.sort_unstable();
    assert_eq!(queued, [run, other]);
}
