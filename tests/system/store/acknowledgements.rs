//! Acknowledgements, and how they carry on.

use crate::store::bed::Bed;
use crate::store::fixtures::{bound, change_report, check, context, finished};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::access::Binding;
use verifyd::domain::acknowledgement::{Acknowledgement, Actor, Surface};
use verifyd::domain::completion::Completion;
use verifyd::domain::report::{Check, CheckStatus, Identity};
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{AcknowledgementId, ConnectionId, Outcome, Reason, RunId, TokenId};
use verifyd::operations::acknowledge::{Request, acknowledge, withdraw};
use verifyd::ports::acknowledgements::{AcknowledgementFilter, NewAcknowledgement};
use verifyd::ports::clock::{Clock as _, SystemClock};
use verifyd::ports::store::{PrunePolicy, Store};

/// The time of this process; everything else is the database's.
pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// What a check says: its key, and how it ended.
pub type Said = (&'static str, CheckStatus, Option<Reason>);

pub const BROKEN: Said = (
    "permissions.x",
    CheckStatus::Fail,
    Some(Reason::PermissionMissing),
);
pub const FINE: Said = ("permissions.x", CheckStatus::Pass, None);
/// Another status for the same reason.
const MILDER: Said = (
    "permissions.x",
    CheckStatus::Warn,
    Some(Reason::PermissionMissing),
);
/// The same status for another reason.
const OTHERWISE: Said = ("permissions.x", CheckStatus::Fail, Some(Reason::Throttled));
pub const BESIDE: Said = (
    "permissions.y",
    CheckStatus::Warn,
    Some(Reason::PermissionMissing),
);

pub fn report(connection: i64, previous: Option<RunId>, said: &[Said]) -> Completion {
    let connection = Some(ConnectionId(connection));
    let identity = Identity {
        provider_connection_id: connection,
        ..Identity::default()
    };
    let checks = said.iter().map(|(key, status, reason)| Check {
        blocking: false,
        ..check(key, *status, *reason)
    });
    Completion {
        connection,
        ..finished(identity, previous, checks.collect(), Outcome::Succeeded)
    }
}

/// A completed run of tenant 7 whose report says so, after that of `previous`.
async fn checked_after(
    bed: &Bed,
    connection: i64,
    previous: Option<RunId>,
    said: &[Said],
) -> RunId {
    let run = bed.queued_for(7, connection).await;
    bed.complete(run, &report(connection, previous, said)).await;
    run
}

pub async fn checked(bed: &Bed, connection: i64, said: &[Said]) -> RunId {
    checked_after(bed, connection, None, said).await
}

/// A token of the API.
pub fn through() -> Actor {
    Actor {
        surface: Surface::Api,
        token_id: Some(TokenId(7)),
        name: "console".into(),
    }
}

pub fn accept(run: RunId, connection: i64, said: Said) -> NewAcknowledgement {
    NewAcknowledgement {
        run,
        connection: Some(ConnectionId(connection)),
        check_key: said.0.into(),
        status: said.1,
        reason_code: said.2,
        reason: "it is planned".into(),
        acknowledged_by: "Ann".into(),
        through: through().into(),
        expires_at: None,
    }
}

pub async fn accepted(bed: &Bed, run: RunId, connection: i64, said: Said) -> AcknowledgementId {
    let (made, created) = bed
        .store
        .acknowledge(&accept(run, connection, said))
        .await
        .unwrap()
        .unwrap();
    assert!(created);
    made.id
}

pub async fn withdrawn(bed: &Bed, id: AcknowledgementId, by: &str) -> Option<Acknowledgement> {
    bed.store.withdraw(id, by, &through().into()).await.unwrap()
}

pub async fn of(store: &Arc<dyn Store>, run: RunId) -> Vec<AcknowledgementId> {
    let found = store.acknowledgements_of(run).await.unwrap();
    found.into_iter().map(|a| a.id).collect()
}

pub async fn an_acknowledgement_is_recorded_once_for_a_check_of_a_run(bed: &Bed) {
    let run = checked(bed, 1, &[BROKEN, BESIDE]).await;
    let mut new = accept(run, 1, BROKEN);
    new.expires_at = Some("2999-12-31T23:59:59.999Z".parse().unwrap());
    let (made, created) = bed.store.acknowledge(&new).await.unwrap().unwrap();
    assert!(created);
    assert_eq!(made.operation_run_id, run);
    assert_eq!(made.check_key, "permissions.x");
    assert_eq!(made.reason_code.as_deref(), Some("permission_missing"));
    assert_eq!(
        (made.reason.as_str(), made.acknowledged_by.as_str()),
        ("it is planned", "Ann")
    );
    assert_eq!((made.expires_at, made.withdrawn_at), (new.expires_at, None));
    assert!((now() - made.acknowledged_at.unwrap()).abs() < TimeDelta::hours(1));
    let again = bed.store.acknowledge(&accept(run, 1, BROKEN)).await;
    assert_eq!(again.unwrap(), Some((made.clone(), false)));
    let beside = accepted(bed, run, 1, BESIDE).await;
    assert_eq!(of(&bed.store, run).await, [made.id, beside]);
    let read = bed.store.acknowledgement(made.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&made));
    // Once it is withdrawn, there may be another one.
    assert!(withdrawn(bed, made.id, "Bob").await.is_some());
    let anew = accepted(bed, run, 1, BROKEN).await;
    assert_eq!(of(&bed.store, run).await, [made.id, beside, anew]);
}

pub async fn only_completed_runs_of_the_type_take_one(bed: &Bed) {
    let queued = bed.queued().await;
    let other = bed.insert("backup.restore", "completed", &context(1)).await;
    for run in [queued, other, RunId(987_654)] {
        let made = bed.store.acknowledge(&accept(run, 1, BROKEN)).await;
        assert_eq!(made.unwrap(), None, "{run}");
    }
    bed.unguard().await;
    bed.lift_constraints().await;
    // Nor one whose time of completion, which others wrote, keeps the acknowledgement from being found.
    let times: &[&str] = match bed.is_postgres() {
        true => &[
            "'infinity'",
            "'290000-01-01'",
            "now() + interval '1 hour'",
            "NULL",
        ],
        false => &["'infinity'", "'9999-01-01T00:00:00.000Z'", "NULL"],
    };
    for (time, n) in times.iter().zip(20..) {
        let run = checked(bed, n, &[BROKEN]).await;
        bed.unchecked(&format!(
            "UPDATE operation_runs SET completed_at = {time} WHERE id = {run}"
        ))
        .await;
        let made = bed.store.acknowledge(&accept(run, n, BROKEN)).await;
        assert_eq!(made.unwrap(), None, "{time}");
    }
    // One that somebody else inserted there is none of verifyd's.
    bed.exec(&format!(
        "INSERT INTO verification_check_acknowledgements \
             (id, operation_run_id, check_key, reason, acknowledged_by) \
         VALUES (4711, {other}, 'permissions.x', 'known', 'somebody')"
    ))
    .await;
    let id = AcknowledgementId(4711);
    assert_eq!(bed.store.acknowledgement(id).await.unwrap(), None);
    assert_eq!(withdrawn(bed, id, "Bob").await, None);
    assert_eq!(of(&bed.store, other).await, []);
}

pub async fn it_carries_on_while_status_and_reason_stay_the_same(bed: &Bed) {
    for (connection, end) in [
        (1, &[FINE, BESIDE][..]),
        (2, &[MILDER, BESIDE]),
        (1_000_000_000_000_000_000, &[OTHERWISE, BESIDE]),
        (i64::MAX, &[BESIDE]),
    ] {
        let first = checked(bed, connection, &[BROKEN, BESIDE]).await;
        let ack = accepted(bed, first, connection, BROKEN).await;
        let second = checked(bed, connection, &[BROKEN, BESIDE]).await;
        let third = checked(bed, connection, &[BROKEN]).await;
        let ended = checked(bed, connection, end).await;
        let back = checked(bed, connection, &[BROKEN, BESIDE]).await;
        for run in [first, second, third] {
            assert_eq!(of(&bed.store, run).await, [ack], "{connection}: {run}");
        }
        for run in [ended, back] {
            assert_eq!(of(&bed.store, run).await, [], "{connection}: {run}");
        }
        // What came back is acknowledged anew.
        let anew = accepted(bed, back, connection, BROKEN).await;
        let last = checked(bed, connection, &[BROKEN]).await;
        assert_eq!(of(&bed.store, last).await, [anew]);
    }
    // Once nothing is open any more, a completion does not look for it.
    let first = checked(bed, 9, &[BROKEN]).await;
    let marks = format!(
        "{} WHERE connection_id = 9 AND CAST(acknowledged AS INTEGER) = 1",
        bed.own("latest_reports")
    );
    assert_eq!(bed.count(&marks).await, 0);
    accepted(bed, first, 9, BROKEN).await;
    assert_eq!(bed.count(&marks).await, 1);
    checked(bed, 9, &[BROKEN]).await;
    assert_eq!(bed.count(&marks).await, 1);
    checked(bed, 9, &[FINE]).await;
    assert_eq!(bed.count(&marks).await, 0);
}

pub async fn what_later_runs_said_decides_at_once(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN]).await;
    let second = checked(bed, 1, &[BROKEN]).await;
    let ended = checked(bed, 1, &[FINE]).await;
    let back = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, first, 1, BROKEN).await;
    for (run, wanted) in [
        (first, &[ack][..]),
        (second, &[ack]),
        (ended, &[]),
        (back, &[]),
    ] {
        assert_eq!(of(&bed.store, run).await, wanted, "{run}");
    }
    let later = checked(bed, 1, &[BROKEN]).await;
    assert_eq!(of(&bed.store, later).await, []);
}

pub async fn what_a_deleted_run_said_is_not_taken_for_granted(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, first, 1, BROKEN).await;
    let ended = checked_after(bed, 1, Some(first), &[FINE]).await;
    let back = checked_after(bed, 1, Some(ended), &[BROKEN]).await;
    bed.delete_run(ended).await;
    // It was ended for good, and so is one that is made only now.
    assert_eq!(of(&bed.store, back).await, []);
    bed.store
        .withdraw(ack, "Ann", &through().into())
        .await
        .unwrap();
    let anew = accepted(bed, first, 1, BROKEN).await;
    assert_eq!(of(&bed.store, back).await, []);
    assert_eq!(of(&bed.store, first).await, [ack, anew]);
    let later = checked_after(bed, 1, Some(back), &[BROKEN]).await;
    assert_eq!(of(&bed.store, later).await, []);
}

pub async fn it_stays_within_its_connection_and_tenant(bed: &Bed) {
    let run = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, run, 1, BROKEN).await;
    let other = checked(bed, 11, &[BROKEN]).await;
    assert_eq!(of(&bed.store, other).await, []);
    // A stranger names the connection; his run says the same, and is none of its runs.
    let stranger = bed.queued_for(8, 1).await;
    let mut completion = report(1, None, &[BROKEN]);
    completion.connection = None;
    bed.complete(stranger, &completion).await;
    assert_eq!(of(&bed.store, stranger).await, []);
    let next = checked(bed, 1, &[BROKEN]).await;
    assert_eq!(of(&bed.store, next).await, [ack]);
    // One made without a connection stays where it is, and so does one that somebody else inserts.
    let mut alone = accept(other, 11, BROKEN);
    alone.connection = None;
    let (alone, _) = bed.store.acknowledge(&alone).await.unwrap().unwrap();
    bed.exec(&format!(
        "INSERT INTO verification_check_acknowledgements \
             (id, operation_run_id, check_key, reason, acknowledged_by) \
         VALUES (4711, {other}, 'permissions.x', 'known', 'somebody')"
    ))
    .await;
    assert_eq!(
        of(&bed.store, other).await,
        [alone.id, AcknowledgementId(4711)]
    );
    let next = checked(bed, 11, &[BROKEN]).await;
    assert_eq!(of(&bed.store, next).await, []);
}

pub async fn a_report_of_any_shape_is_survived(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, first, 1, BROKEN).await;
    for checks in [
        json!("none"),
        json!({"permissions.x": {"status": "fail"}}),
        json!([1, "text", null, [], {"key": ["permissions.x"]}]),
        json!(null),
    ] {
        let mut strange = context(1);
        strange["verification_report"] = json!({"checks": checks});
        let run = bed.insert(RUN_TYPE, "queued", &strange).await;
        bed.save(
            run,
            "status = 'completed', outcome = 'succeeded', completed_at = created_at",
        )
        .await;
        assert_eq!(of(&bed.store, run).await, []);
    }
    let next = checked(bed, 1, &[BROKEN]).await;
    assert_eq!(of(&bed.store, next).await, [ack]);
    // They are later runs of the connection, and say nothing of the check.
    bed.store
        .withdraw(ack, "Ann", &through().into())
        .await
        .unwrap();
    accepted(bed, first, 1, BROKEN).await;
    assert_eq!(of(&bed.store, next).await, [ack]);
}

pub async fn it_changes_nothing_of_the_run(bed: &Bed) {
    let run = checked(bed, 1, &[BROKEN]).await;
    let before = bed.dump("operation_runs").await;
    let latest = bed.store.latest_report(ConnectionId(1)).await.unwrap();
    let ack = accepted(bed, run, 1, BROKEN).await;
    bed.store
        .withdraw(ack, "Bob", &through().into())
        .await
        .unwrap();
    let now = bed.store.latest_report(ConnectionId(1)).await.unwrap();
    assert_eq!(now, latest);
    assert_eq!(bed.dump("operation_runs").await, before);
}

pub async fn acknowledgements_are_paged_and_filtered(bed: &Bed) {
    let one = checked(bed, 1, &[BROKEN, BESIDE]).await;
    let two = checked(bed, 2, &[BROKEN]).await;
    let a = accepted(bed, one, 1, BROKEN).await;
    let b = accepted(bed, one, 1, BESIDE).await;
    let c = accepted(bed, two, 2, BROKEN).await;
    bed.store
        .withdraw(b, "Bob", &through().into())
        .await
        .unwrap();
    let foreign = bed.queued_for(8, 1).await;
    bed.complete(foreign, &report(3, None, &[BROKEN])).await;
    let d = accepted(bed, foreign, 3, BROKEN).await;
    type Narrow<'a> = &'a dyn Fn(&mut AcknowledgementFilter);
    let cases: [(Narrow, &[AcknowledgementId]); 10] = [
        (&|_| {}, &[d, c, b, a]),
        (&|f| f.limit = 2, &[d, c]),
        (&|f| f.before = Some(c), &[b, a]),
        (&|f| f.run = Some(one), &[b, a]),
        (&|f| f.connection = Some(ConnectionId(2)), &[c]),
        (&|f| f.active_only = true, &[d, c, a]),
        (&|f| f.binding = bound(1, None), &[d, c, b, a]),
        (&|f| f.binding = bound(1, Some(7)), &[c, b, a]),
        (&|f| f.binding = bound(1, Some(8)), &[d]),
        (&|f| f.binding = bound(2, None), &[]),
    ];
    for (narrow, wanted) in cases {
        let mut filter = AcknowledgementFilter {
            limit: 100,
            ..AcknowledgementFilter::default()
        };
        narrow(&mut filter);
        let found: Vec<Acknowledgement> = bed.store.acknowledgements(&filter).await.unwrap();
        let found: Vec<AcknowledgementId> = found.into_iter().map(|a| a.id).collect();
        assert_eq!(found, wanted, "{filter:?}");
    }
}

pub async fn pruning_keeps_what_still_stands(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, first, 1, BROKEN).await;
    let between = checked(bed, 1, &[BROKEN]).await;
    let last = checked(bed, 1, &[BROKEN]).await;
    let carried = bed.own("carried_acknowledgements");
    bed.age("operation_runs", "completed_at", "true", 10_000)
        .await;
    bed.age(&carried, "from_completed_at", "true", 10_000).await;
    let policy = PrunePolicy {
        older_than: Duration::from_secs(1000),
        batch: 10,
    };
    assert_eq!(bed.store.prunable(policy.older_than).await.unwrap(), 1);
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!((pruned.runs, pruned.last), (1, Some(between)));
    assert_eq!(of(&bed.store, last).await, [ack]);
    bed.store
        .withdraw(ack, "Ann", &through().into())
        .await
        .unwrap();
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!((pruned.runs, pruned.acknowledgements), (1, 1));
    for table in ["verification_check_acknowledgements", &carried] {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
}

/// The way of every surface: `operations::acknowledge`.
pub async fn what_cannot_be_acknowledged_is_named(bed: &Bed) {
    let store = bed.store.as_ref();
    let connection = store
        .add_connection(&crate::store::fixtures::new_connection(7), None, operator())
        .await
        .unwrap();
    let ask = |run: RunId| Request {
        run,
        reach: Binding::EVERYTHING,
        check_key: "permissions.x".into(),
        reason: "it is planned".into(),
        by: Some("Ann".into()),
        through: through().into(),
        expires_at: None,
    };
    let refused = async |request: Request| {
        let refused = acknowledge(store, &request, now()).await;
        refused.unwrap_err().to_string()
    };
    let queued = bed.queued_for(7, 1).await;
    assert_eq!(
        refused(ask(queued)).await,
        format!("run {queued} is queued: only a check of a completed run can be acknowledged")
    );
    let held = bed.claim(queued, "w1").await;
    let why = refused(ask(queued)).await;
    assert!(why.contains("is running"), "{why}");
    let mut unreadable = report(1, None, &[BROKEN]);
    change_report(&mut unreadable, |report| {
        report["checks"][0]["status"] = json!("odd")
    });
    assert!(bed.store.complete(&held, &unreadable).await.unwrap());
    let why = refused(ask(queued)).await;
    assert!(
        why.contains("has no report that can be read: /checks/0/status"),
        "{why}"
    );
    assert_eq!(
        refused(ask(RunId(999_999))).await,
        "run 999999: no such run"
    );
    let run = checked(bed, connection.0, &[BROKEN, BESIDE]).await;
    let mut other = ask(run);
    other.check_key = "permissions.z".into();
    let why = refused(other).await;
    assert!(
        why.starts_with("check_key: ") && why.ends_with(": permissions.x, permissions.y"),
        "{why}"
    );

    let made = acknowledge(store, &ask(run), now()).await.unwrap();
    assert!(made.created);
    let next = checked(bed, connection.0, &[BROKEN]).await;
    assert_eq!(of(&bed.store, next).await, [made.acknowledgement.id]);
    // The connection is of tenant 7: what is said on a stranger's run stays there.
    let stranger = bed.queued_for(8, connection.0).await;
    let mut completion = report(connection.0, None, &[BROKEN]);
    completion.connection = None;
    bed.complete(stranger, &completion).await;
    let theirs = acknowledge(store, &ask(stranger), now()).await.unwrap();
    let carried = bed.own("carried_acknowledgements");
    assert_eq!(bed.count(&carried).await, 1);
    assert_eq!(of(&bed.store, stranger).await, [theirs.acknowledgement.id]);

    let id = made.acknowledgement.id;
    let every = Binding::EVERYTHING;
    let error = withdraw(store, &every, id, Some(" "), &through().into())
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "withdrawn_by: has 0 characters, allowed: 1 to 200");
    let withdrawn = withdraw(store, &every, id, Some(" Bob "), &through().into())
        .await
        .unwrap();
    assert_eq!(withdrawn.withdrawn_by.as_deref(), Some("Bob"));

    bed.unguard().await;
    bed.exec(&format!(
        "UPDATE operation_runs SET completed_at = '2999-01-01T00:00:00.000Z' WHERE id = {next}"
    ))
    .await;
    assert_eq!(
        refused(ask(next)).await,
        format!("run {next} is not completed any more, or at a time that has not passed")
    );
}
