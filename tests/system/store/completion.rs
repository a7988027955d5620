//! `running` → `completed`.

use crate::store::bed::Bed;
use crate::store::fixtures::{
    ISOLATED, POLICY, SWEEP, at_once, blocked, context, failed, heartbeat, report_of, succeeded,
    with_inventory, worker,
};
use serde_json::{Value, json};
use test_support::padding::half_noise;
use uuid::Uuid;
use verifyd::domain::completion::{CheckedScope, CheckedTarget, Completion};
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, RunStatus};
use verifyd::ports::store::{AttemptEnd, ContextSize, StoreError};

pub async fn a_completion_writes_run_report_and_attempt(bed: &Bed) {
    let run = bed.recorded(1).await;
    let held = bed.claim(run, "w1").await;
    let completion = failed();
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Completed);
    assert_eq!(stored.outcome, Some(Outcome::Failed));
    assert_eq!(stored.report(), Some(&report_of(&completion)));
    assert_eq!(
        stored.failure_summary,
        serde_json::to_value(&completion.failure_summary).unwrap()
    );
    assert!(stored.completed_at.unwrap() >= stored.started_at.unwrap());
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::Completed));
    assert!(attempts[0].counted);
    let deliveries = bed.own("run_deliveries");
    assert_eq!(bed.count(&deliveries).await, 0);
}

pub async fn other_keys_of_context_are_kept(bed: &Bed) {
    let mut stale = context(1);
    stale["verification_report"] = json!({"old": true});
    stale["empty"] = Value::Null;
    let run = bed.insert(RUN_TYPE, "queued", &stale).await;
    let held = bed.claim(run, "w1").await;
    // Written by the application while the run is in flight.
    stale["late"] = json!({"a": [1, 2.5, "x"]});
    bed.save_context(run, &stale).await;
    let completion = succeeded();
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    stale["verification_report"] = report_of(&completion);
    assert_eq!(bed.run(run).await.context, stale);
}

/// A producer's own, or those of an earlier completion.
pub async fn no_member_stays_that_looks_like_verifyds(bed: &Bed) {
    let mut forged = context(1);
    forged["verification_report"] = json!({"old": true});
    forged["reason_code"] = json!("tenant_missing");
    forged["next_steps"] = json!([{"label": "Old", "url": "/old"}]);
    for completion in [succeeded(), failed(), blocked()] {
        let run = bed.insert(RUN_TYPE, "queued", &forged).await;
        bed.complete(run, &completion).await;
        let mut kept = context(1);
        kept["verification_report"] = report_of(&completion);
        if let Some(by) = &completion.blocked {
            kept["reason_code"] = json!(by.reason_code.code());
            kept["next_steps"] = json!(by.next_steps);
        }
        assert_eq!(bed.run(run).await.context, kept);
    }
}

pub async fn what_is_null_or_blank_counts_as_left_out(bed: &Bed) {
    let checked = CheckedTarget {
        provider: "microsoft".into(),
        module: "core".into(),
        target_scope: None,
    };
    for left_out in [Value::Null, json!(""), json!(" \t\n")] {
        let mut asked = context(1);
        asked["provider"] = left_out.clone();
        asked["module"] = left_out.clone();
        // Also where what verifyd reads is all that stays.
        for reduced in [false, true] {
            let run = bed.insert(RUN_TYPE, "queued", &asked).await;
            let mut held = bed.claim(run, "w1").await;
            if reduced {
                held.context = ContextSize::Refused;
            }
            let completion = Completion {
                checked: Some(checked.clone()),
                ..succeeded()
            };
            assert!(bed.store.complete(&held, &completion).await.unwrap());
            let stored = bed.run(run).await.context;
            assert_eq!(stored["provider"], "microsoft", "{left_out}");
            assert_eq!(stored["module"], "core", "{left_out}");
            assert_eq!(stored.get("note").is_none(), reduced);
        }
        // Where nothing is known to add it stays as it is.
        let run = bed.insert(RUN_TYPE, "queued", &asked).await;
        bed.complete(run, &succeeded()).await;
        assert_eq!(bed.run(run).await.context["module"], left_out);
    }
}

/// A `null` there says that there is no name: also where what verifyd reads is all that stays.
pub async fn members_of_a_target_scope_stay_as_they_are(bed: &Bed) {
    let mut asked = context(1);
    asked["target_scope"]["entra_tenant_name"] = Value::Null;
    asked["target_scope"]["own"] = json!({"a": null, "b": [null, 1]});
    for reduced in [false, true] {
        let run = bed.insert(RUN_TYPE, "queued", &asked).await;
        let mut held = bed.claim(run, "w1").await;
        if reduced {
            held.context = ContextSize::Refused;
        }
        let completion = Completion {
            checked: Some(CheckedTarget {
                provider: "microsoft".into(),
                module: "core".into(),
                target_scope: Some(CheckedScope {
                    entra_tenant_name: "Contoso".into(),
                }),
            }),
            ..succeeded()
        };
        assert!(bed.store.complete(&held, &completion).await.unwrap());
        let stored = bed.run(run).await.context;
        assert_eq!(stored["target_scope"], asked["target_scope"], "{reduced}");
        assert_eq!(stored.get("note").is_none(), reduced);
    }
}

pub async fn a_context_that_is_no_object_is_kept_beside_the_report(bed: &Bed) {
    for odd in [json!([1, 2]), json!("text"), json!(3), Value::Null] {
        let run = bed.insert(RUN_TYPE, "queued", &odd).await;
        let held = bed.claim(run, "w1").await;
        assert!(held.run.request.problem.is_some(), "{odd}");
        let completion = blocked();
        assert!(bed.store.complete(&held, &completion).await.unwrap());
        let stored = bed.run(run).await;
        assert_eq!(stored.report(), Some(&report_of(&completion)), "{odd}");
        let kept = stored.context.get("producer_context");
        assert_eq!(kept, Some(&odd));
        let members = stored.context.as_object().unwrap().len();
        assert_eq!(members, 4, "{odd}");
    }
    let run = bed.queued().await;
    let remove = format!("UPDATE operation_runs SET context = NULL WHERE id = {run}");
    if !bed.is_postgres() {
        // There the table is always verifyd's own.
        assert!(bed.try_exec(&remove).await.is_err());
        return;
    }
    bed.exec("ALTER TABLE operation_runs ALTER COLUMN context DROP NOT NULL")
        .await;
    bed.exec(&remove).await;
    let held = bed.claim(run, "w1").await;
    assert!(held.run.request.problem.is_some());
    assert!(bed.store.complete(&held, &blocked()).await.unwrap());
    let stored = bed.run(run).await.context;
    assert_eq!(stored.get("producer_context"), None);
    assert_eq!(stored.as_object().unwrap().len(), 3);
}

pub async fn a_blocked_run_names_reason_and_next_steps(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let completion = blocked();
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.outcome, Some(Outcome::Blocked));
    let by = completion.blocked.unwrap();
    assert_eq!(stored.context["reason_code"], json!(by.reason_code.code()));
    assert_eq!(
        stored.context["next_steps"],
        json!([{"label": "Look", "url": "/look"}])
    );
    assert_eq!(stored.context["note"], context(1)["note"]);
}

pub async fn a_completed_run_is_never_claimed_or_completed_again(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    let before = bed.dump("operation_runs").await;
    for policy in [POLICY, ISOLATED, POLICY, ISOLATED] {
        let claimed = bed.store.claim(run, &worker("w2"), &policy).await.unwrap();
        assert!(claimed.claimed().is_none(), "{policy:?}");
    }
    assert!(!bed.store.complete(&held, &failed()).await.unwrap());
    assert!(!bed.release(&held, AttemptEnd::Error, None).await);
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (vec![], vec![]));
    let stored = bed.run(run).await;
    assert_eq!(stored.outcome, Some(Outcome::Succeeded));
    assert_eq!(bed.attempts(run).await.len(), 1);
    // Not even locked: PostgreSQL notes the last locker in xmax.
    assert_eq!(bed.dump("operation_runs").await, before);
}

pub async fn a_stale_worker_cannot_complete_after_a_takeover(bed: &Bed) {
    let run = bed.queued().await;
    let stale = bed.claim(run, "w1").await;
    // w1 never sent a heartbeat, so the sweep takes its run away.
    let swept = bed.sweep().await;
    assert_eq!(swept.reclaimed, [run]);
    let late = with_inventory();
    // While it is queued, and after another worker has claimed it.
    assert!(!bed.store.complete(&stale, &late).await.unwrap());
    bed.store.heartbeat(&heartbeat("w2")).await.unwrap();
    let current = bed.claim(run, "w2").await;
    let before = bed.content("operation_runs").await;
    assert!(!bed.store.complete(&stale, &late).await.unwrap());
    assert_eq!(bed.content("operation_runs").await, before);
    bed.has_learnt_nothing().await;
    assert!(bed.store.complete(&current, &failed()).await.unwrap());
    assert!(!bed.store.complete(&stale, &late).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.outcome, Some(Outcome::Failed));
}

pub async fn a_forged_token_completes_nothing(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let mut forged = held.clone();
    forged.token = Uuid::new_v4();
    assert!(!bed.store.complete(&forged, &succeeded()).await.unwrap());
    assert!(!bed.release(&forged, AttemptEnd::Error, None).await);
    let mut later = held.clone();
    later.attempt = 2;
    assert!(!bed.store.complete(&later, &succeeded()).await.unwrap());
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
}

/// The same claim completes, is released and is swept at the same moment: one of them wins.
pub async fn two_holders_race_to_complete_and_one_wins(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 0..25 {
        let run = bed.queued().await;
        let held = bed.claim(run, "never beat").await;
        let won = at_once(&stores, 4, |store, n| {
            let held = held.clone();
            async move {
                match n {
                    0 => store.complete(&held, &succeeded()).await.unwrap(),
                    1 => store
                        .release(&held, AttemptEnd::Shutdown, None, None, true)
                        .await
                        .unwrap(),
                    2 => store.complete(&held, &failed()).await.unwrap(),
                    _ => {
                        let swept = store.sweep(&SWEEP).await.unwrap();
                        swept.is_some_and(|s| s.reclaimed.contains(&run))
                    }
                }
            }
        })
        .await;
        let winners = won.iter().filter(|w| **w).count();
        assert_eq!(winners, 1, "round {round}: {won:?}");
        let stored = bed.run(run).await;
        let expected = if won[0] || won[2] {
            RunStatus::Completed
        } else {
            RunStatus::Queued
        };
        assert_eq!(stored.status, expected, "round {round}");
        let attempts = bed.attempts(run).await;
        assert_eq!(attempts.len(), 1);
        assert!(attempts[0].end_reason.is_some());
    }
}

/// The constraint refuses a blocked run without a reason: the whole transaction is undone.
pub async fn a_refused_completion_writes_nothing(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let unreasoned = Completion {
        outcome: Outcome::Blocked,
        ..with_inventory()
    };
    let refused = bed.store.complete(&held, &unreasoned).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    let stored = bed.run(run).await;
    assert_eq!((stored.id, stored.status), (run, RunStatus::Running));
    assert_eq!((stored.outcome, stored.report()), (None, None));
    bed.has_learnt_nothing().await;
    assert!(bed.store.complete(&held, &blocked()).await.unwrap());
}

/// Without an error of the database nothing else says so: the run would end without its report, or stay.
pub async fn a_completion_of_which_a_trigger_keeps_the_row_is_refused(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let rules: &[&str] = match bed.is_postgres() {
        true => &["RETURN NULL", "new.context := old.context; RETURN new"],
        false => &["RAISE(IGNORE)"],
    };
    for (number, rule) in rules.iter().enumerate() {
        let name = format!("keep_{number}");
        let (create, on) = match bed.is_postgres() {
            true => (
                format!(
                    "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {rule}; END'; \
                     CREATE TRIGGER {name} BEFORE UPDATE ON operation_runs FOR EACH ROW \
                     WHEN (new.status = 'completed') EXECUTE FUNCTION {name}()"
                ),
                " ON operation_runs",
            ),
            false => (
                format!(
                    "CREATE TRIGGER {name} BEFORE UPDATE ON operation_runs \
                     WHEN new.status = 'completed' BEGIN SELECT {rule}; END"
                ),
                "",
            ),
        };
        bed.exec(&create).await;
        let refused = bed.store.complete(&held, &with_inventory()).await;
        let refusal = refused.unwrap_err().refusal();
        let kept = "a trigger or row-level security keeps or changes the row";
        assert_eq!(refusal, kept, "{rule}");
        let stored = bed.run(run).await;
        assert_eq!((stored.status, stored.report()), (RunStatus::Running, None));
        assert_eq!(bed.attempts(run).await[0].end_reason, None, "{rule}");
        bed.has_learnt_nothing().await;
        bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
    }
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
}

/// What verifyd reads of `context(1)`.
fn own_members() -> Value {
    let mut own = context(1);
    own.as_object_mut().unwrap().remove("note");
    own
}

/// The refusal may have another cause: nothing is dropped that the claim does not say.
pub async fn a_completion_keeps_of_a_refused_context_what_its_claim_says(bed: &Bed) {
    for (member, written, mut kept) in [
        ("note", ContextSize::Refused, own_members()),
        ("target_scope", ContextSize::Huge, json!({})),
    ] {
        let run = bed.queued().await;
        let mut held = bed.claim(run, "w1").await;
        bed.exec(&if bed.is_postgres() {
            format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RAISE EXCEPTION ''a quota''; END'; \
                 CREATE TRIGGER refuse_{member} BEFORE UPDATE ON operation_runs FOR EACH ROW \
                 WHEN (new.status = 'completed' AND new.context ? '{member}') \
                 EXECUTE FUNCTION refuse()"
            )
        } else {
            format!(
                "CREATE TRIGGER refuse_{member} BEFORE UPDATE ON operation_runs \
                 WHEN new.status = 'completed' AND json_type(new.context, '$.{member}') IS NOT NULL \
                 BEGIN SELECT RAISE(ABORT, 'a quota'); END"
            )
        })
        .await;
        let completion = succeeded();
        let mut context = Some(held.context);
        while let Some(size) = context.filter(|size| *size != written) {
            held.context = size;
            let refused = bed.store.complete(&held, &completion).await;
            assert!(
                matches!(refused, Err(StoreError::Refused(_))),
                "{refused:?}"
            );
            assert_eq!(bed.run(run).await.status, RunStatus::Running);
            context = size.reduced();
        }
        held.context = written;
        assert!(bed.store.complete(&held, &completion).await.unwrap());
        kept["producer_context_dropped"] = json!(true);
        kept["verification_report"] = report_of(&completion);
        assert_eq!(bed.run(run).await.context, kept);
    }
}

/// It is not copied: its size may be what made the earlier completions fail.
pub async fn a_forced_completion_keeps_of_a_large_context_what_verifyd_reads(bed: &Bed) {
    let mut large = context(1);
    large["note"] = half_noise(200 * 1024).into();
    let run = bed.insert(RUN_TYPE, "queued", &large).await;
    let mut held = bed.claim(run, "w1").await;
    (held.forced_completion, held.context) = (true, ContextSize::Unknown);
    let completion = succeeded();
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let mut kept = own_members();
    kept["producer_context_dropped"] = json!(true);
    kept["verification_report"] = report_of(&completion);
    assert_eq!(bed.run(run).await.context, kept);
}

/// The member says what is missing, not which completion dropped it.
pub async fn what_was_dropped_is_still_said_when_a_run_is_queued_again(bed: &Bed) {
    bed.unguard().await;
    let run = bed.queued().await;
    let mut held = bed.claim(run, "w1").await;
    held.context = ContextSize::Refused;
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    let again = "status = 'queued', outcome = NULL, completed_at = NULL";
    bed.save(run, again).await;
    let completion = failed();
    bed.complete(run, &completion).await;
    let mut kept = own_members();
    kept["producer_context_dropped"] = json!(true);
    kept["verification_report"] = report_of(&completion);
    assert_eq!(bed.run(run).await.context, kept);
}

pub async fn the_latest_report_never_moves_back(bed: &Bed) {
    let connection = ConnectionId(5);
    let (older, newer) = (bed.queued().await, bed.queued().await);
    for (run, mut completion) in [(older, succeeded()), (newer, failed())] {
        completion.connection = Some(connection);
        bed.complete(run, &completion).await;
        let latest = bed.store.latest_report(connection).await.unwrap().unwrap();
        assert_eq!(latest.operation_run_id, run);
        assert_eq!(latest.fingerprint, completion.fingerprint);
        assert_eq!(latest.overall, completion.overall);
        assert_eq!(latest.outcome, completion.outcome);
        let stored = bed.run(run).await;
        assert_eq!(Some(latest.completed_at), stored.completed_at);
    }
    // What another replica wrote in the meantime was completed later than what comes now.
    let last = bed.queued().await;
    let held = bed.claim(last, "w1").await;
    let table = bed.own("latest_reports");
    bed.exec(&format!(
        "UPDATE {table} SET completed_at = '2999-01-01T00:00:00.000Z' WHERE connection_id = 5"
    ))
    .await;
    let mut completion = succeeded();
    completion.connection = Some(connection);
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let latest = format!("SELECT operation_run_id FROM {table} WHERE connection_id = 5");
    assert_eq!(bed.number(&latest).await, newer.0);
}

pub async fn without_a_connection_no_latest_report_is_written(bed: &Bed) {
    bed.completed(&blocked()).await;
    let table = bed.own("latest_reports");
    assert_eq!(bed.count(&table).await, 0);
}
