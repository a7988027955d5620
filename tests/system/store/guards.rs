//! What the database itself holds about runs of verifyd's type, whoever writes.

use crate::store::bed::Bed;
use crate::store::fixtures::{blocked, context, failed, quoted, succeeded};
use serde_json::{Value, json};
use test_support::world::ParsedRun;
use verifyd::domain::TenantId;
use verifyd::domain::completion::Completion;

/// A run that was completed in the regular way.
async fn completed(bed: &Bed, completion: &Completion) -> ParsedRun {
    let run = bed.completed(completion).await;
    bed.run(run).await
}

/// As an ORM saves a row that it read before verifyd completed it: every column, older.
pub async fn a_completed_run_survives_a_save_of_an_older_copy(bed: &Bed) {
    for completion in [succeeded(), failed(), blocked()] {
        let before = completed(bed, &completion).await;
        let neighbour = bed.queued().await;
        let older = context(1);
        let change = format!(
            "UPDATE operation_runs SET status = 'running', outcome = NULL, started_at = NULL, \
             completed_at = NULL, failure_summary = '[]', context = '{}' WHERE id IN ({}, {})",
            quoted(&older),
            before.id,
            neighbour
        );
        bed.exec(&change).await;
        assert_eq!(bed.run(before.id).await, before);
        // The same statement did change the run that is not completed.
        assert_eq!(bed.run(neighbour).await.status.as_str(), "running");

        bed.save_context(before.id, &older).await;
        assert_eq!(bed.run(before.id).await, before);
        for change in [
            "outcome = 'succeeded', failure_summary = '[]'",
            "outcome = 'failed'",
            "completed_at = started_at",
            "completed_at = NULL",
            "failure_summary = NULL",
            "status = 'queued', outcome = NULL, completed_at = NULL",
        ] {
            bed.save(before.id, change).await;
            assert_eq!(bed.run(before.id).await, before, "{change}");
        }
    }
}

pub async fn a_completed_run_keeps_its_report_under_any_context(bed: &Bed) {
    let before = completed(bed, &succeeded()).await;
    for odd in [json!([]), json!("text"), json!(3), Value::Null] {
        bed.save_context(before.id, &odd).await;
        assert_eq!(bed.run(before.id).await, before, "{odd}");
    }
    let report = &before.context["verification_report"];
    for change in [json!({}), json!(null), json!({ "checks": [] })] {
        let mut forged = before.context.clone();
        forged["verification_report"] = change;
        bed.save_context(before.id, &forged).await;
        assert_eq!(bed.run(before.id).await, before);
    }
    bed.save(before.id, "context = '{\"note\": 1}'").await;
    let after = bed.run(before.id).await.context;
    assert_eq!(after, json!({ "note": 1, "verification_report": report }));
}

pub async fn a_blocked_run_keeps_reason_and_next_steps(bed: &Bed) {
    let before = completed(bed, &blocked()).await;
    let mut forged = before.context.clone();
    forged["reason_code"] = json!("other");
    forged.as_object_mut().unwrap().remove("next_steps");
    bed.save_context(before.id, &forged).await;
    assert_eq!(bed.run(before.id).await, before);
}

pub async fn what_is_not_verifyds_may_be_changed_on_a_completed_run(bed: &Bed) {
    for completion in [succeeded(), blocked()] {
        let before = completed(bed, &completion).await;
        let mut wanted = before.context.clone();
        wanted["note"] = json!({ "seen": true });
        // The report comes along as the ORM read it, in another order of members.
        bed.save_context(before.id, &wanted).await;
        assert_eq!(bed.run(before.id).await.context, wanted);
        // And with an older copy, the application's own members are still its own.
        bed.save(
            before.id,
            "status = 'running', outcome = NULL, completed_at = NULL, context = '{\"note\": 5}'",
        )
        .await;
        let after = bed.run(before.id).await;
        assert_eq!(after.context["note"], json!(5));
        for member in ["verification_report", "reason_code", "next_steps"] {
            assert_eq!(after.context.get(member), before.context.get(member));
        }
        assert_eq!(after.outcome, before.outcome);
    }
    let before = completed(bed, &succeeded()).await;
    bed.save(before.id, "context = '{\"reason_code\": \"its own\"}'")
        .await;
    let after = bed.run(before.id).await.context;
    assert_eq!(after["reason_code"], json!("its own"));
    bed.delete_run(before.id).await;
    assert_eq!(bed.store.run(before.id).await.unwrap(), None);
}

pub async fn whose_run_it_is_never_changes(bed: &Bed) {
    let queued = bed.queued().await;
    let done = completed(bed, &succeeded()).await;
    for run in [queued, done.id] {
        let before = bed.run(run).await;
        for change in [
            "type = 'backup.restore'",
            "tenant_id = 8",
            "tenant_id = NULL",
            "workspace_id = 2",
            "id = 4711",
            "tenant_id = 8, status = 'queued', outcome = NULL, completed_at = NULL",
        ] {
            let change = format!("UPDATE operation_runs SET {change} WHERE id = {run}");
            let refused = bed.try_exec(&change).await.unwrap_err().to_string();
            assert!(refused.contains("never change"), "{change}: {refused}");
        }
        // A writer rounds times.
        bed.save(run, "created_at = '2020-01-01T00:00:00.000Z'")
            .await;
        assert_eq!(bed.run(run).await, before);
    }
}

/// Even put back to the queue: the protocol copes with it.
pub async fn a_queued_run_may_be_changed(bed: &Bed) {
    let run = bed.queued().await;
    bed.claim(run, "w1").await;
    bed.save(run, "status = 'queued', context = '{\"a\": 1}'")
        .await;
    let held = bed.claim(run, "w2").await;
    let stored = bed.run(held.run.id).await;
    assert_eq!(stored.context, json!({ "a": 1 }));
}

pub async fn guards_that_were_removed_are_added_again(bed: &Bed) {
    let guards = bed.store.guards().await.unwrap();
    assert_eq!(guards.missing, Vec::<String>::new());
    let nothing = bed.store.enforce().await.unwrap();
    assert_eq!(nothing.added, Vec::<String>::new());
    bed.unguard().await;
    let missing = bed.store.guards().await.unwrap().missing;
    assert!(missing.contains(&"verifyd_guard_completed_run".to_owned()));
    assert!(missing.contains(&"verifyd_guard_run_identity".to_owned()));
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!((enforced.added, enforced.refused), (missing, Vec::new()));
    assert_eq!(bed.store.guards().await.unwrap(), guards);
    a_completed_run_survives_a_save_of_an_older_copy(bed).await;
    whose_run_it_is_never_changes(bed).await;

    let empty = bed.empty_sibling().await;
    let guards = empty.store.guards().await.unwrap();
    assert_eq!(guards.in_place, Vec::<String>::new());
    assert!(empty.store.enforce().await.is_err());
}

pub async fn runs_of_another_type_are_free(bed: &Bed) {
    let run = bed
        .insert_for(
            TenantId(7),
            "backup.restore",
            "completed",
            &json!({ "verification_report": 1 }),
        )
        .await;
    bed.save(
        run,
        "status = 'queued', outcome = 'x', context = '[]', tenant_id = 8, workspace_id = 9, \
         type = 'policy.sync', created_at = '2020-01-01T00:00:00.000Z'",
    )
    .await;
    let found = bed
        .number(&format!(
            "SELECT count(*) FROM operation_runs WHERE id = {run} AND status = 'queued' \
             AND outcome = 'x' AND tenant_id = 8 AND workspace_id = 9 AND type = 'policy.sync' \
             AND created_at < '2020-02-01T00:00:00.000Z'"
        ))
        .await;
    assert_eq!(found, 1);
}
