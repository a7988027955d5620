//! `migrate --enforce` on the table of another application.

use crate::store::bed::Bed;
use crate::store::fixtures::{blocked, context, quoted, succeeded};
use crate::store::migrate_beside_another_application::{beside, definitions, rows};
use serde_json::json;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, RunStatus};

const GUARDS: [&str; 6] = [
    "verifyd_completed_has_outcome",
    "verifyd_blocked_has_report",
    "verifyd_context_size",
    "verifyd_guard_completed_run",
    "verifyd_guard_run_identity",
    "verifyd_notify_queued",
];

const INDEXES: [&str; 2] = ["operation_runs_check_active", "operation_runs_check_turns"];

async fn migrated() -> Bed {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    bed
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[tokio::test]
async fn only_enforce_guards_the_table_of_another_application() {
    let bed = migrated().await;
    let untouched = definitions(bed.pg()).await;
    let guards = bed.store.guards().await.unwrap();
    assert_eq!(
        (guards.in_place, guards.missing),
        (vec![], GUARDS.map(String::from).to_vec())
    );
    // Left alone without --enforce: what an application does to its rows is its own affair.
    let run = bed.completed(&succeeded()).await;
    bed.save(
        run,
        "status = 'queued', outcome = NULL, completed_at = NULL",
    )
    .await;
    assert_eq!(bed.run(run).await.status, RunStatus::Queued);
    bed.store.migrate().await.unwrap();
    assert_eq!(definitions(bed.pg()).await, untouched);

    let before = rows(&bed).await;
    let enforced = bed.store.enforce().await.unwrap();
    let mut all = GUARDS.map(String::from).to_vec();
    all.extend(INDEXES.map(String::from));
    assert_eq!(sorted(enforced.added), sorted(all.clone()));
    assert_eq!((enforced.in_place, enforced.refused), (vec![], vec![]));
    assert_eq!(rows(&bed).await, before);
    let after = definitions(bed.pg()).await;
    // Only the table of runs got something.
    for (old, new) in untouched.iter().zip(&after) {
        let runs = old.starts_with("operation_runs");
        assert_eq!(old != new, runs, "{new}");
    }
    assert_eq!(bed.store.inspect().await.unwrap(), []);
    let again = bed.store.enforce().await.unwrap();
    assert_eq!(sorted(again.in_place), sorted(all));
    assert_eq!((again.added, again.refused), (vec![], vec![]));
    assert_eq!(definitions(bed.pg()).await, after);
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        Vec::<String>::new()
    );
}

/// The constraint's first form did not look at what is recorded as running.
#[tokio::test]
async fn an_older_form_of_a_constraint_is_replaced() {
    let bed = migrated().await;
    bed.exec(
        "ALTER TABLE operation_runs ADD CONSTRAINT verifyd_context_size CHECK (status <> 'queued' \
         OR started_at IS NOT NULL OR octet_length(context::text) <= 262144)",
    )
    .await;
    let size = "verifyd_context_size".to_owned();
    assert!(bed.store.guards().await.unwrap().missing.contains(&size));
    let enforced = bed.store.enforce().await.unwrap();
    assert!(enforced.added.contains(&size), "{enforced:?}");
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        Vec::<String>::new()
    );
    let insert = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         VALUES (1, 7, '{RUN_TYPE}', 'running', '{}')",
        quoted(&json!({ "x": "a".repeat(262_144) }))
    );
    let refused = bed.try_exec(&insert).await.unwrap_err().to_string();
    assert!(refused.contains(&size), "{refused}");
}

/// The guards hold for runs of verifyd's type, also with times without a time zone, and are out of
/// the way of everything else.
#[tokio::test]
async fn an_enforced_table_guards_verifyds_runs_only() {
    let bed = migrated().await;
    bed.store.enforce().await.unwrap();
    for completion in [succeeded(), blocked()] {
        let run = bed.completed(&completion).await;
        let done = bed.run(run).await;
        // As an ORM saves it, with columns of its own that verifyd does not know.
        bed.exec(&format!(
            "UPDATE operation_runs SET status = 'running', outcome = NULL, completed_at = NULL, \
             started_at = NULL, failure_summary = '[]', context = '{}', priority = 9 \
             WHERE id = {run}",
            quoted(&context(1))
        ))
        .await;
        assert_eq!(bed.run(run).await, done);
        let priority = bed
            .number(&format!(
                "SELECT priority::bigint FROM operation_runs WHERE id = {run}"
            ))
            .await;
        assert_eq!(priority, 9);
    }
    let run = bed.queued().await;
    for change in [
        "status = 'completed'",
        "status = 'completed', outcome = 'failed'",
        "status = 'completed', outcome = 'cancelled', completed_at = now()",
        "status = 'completed', outcome = 'blocked', completed_at = now()",
        "tenant_id = NULL",
        "workspace_id = 4",
    ] {
        let change = format!("UPDATE operation_runs SET {change} WHERE id = {run}");
        assert!(bed.try_exec(&change).await.is_err(), "{change}");
    }
    // Statuses of the application's own, and everything about other types.
    bed.save(run, "status = 'cancelled'").await;
    bed.exec(
        "UPDATE operation_runs SET status = 'completed', outcome = 'blocked', tenant_id = NULL, \
         workspace_id = 9, context = '[]' WHERE type <> 'provider.connection.check'; \
         INSERT INTO operation_runs (workspace_id, type, status, outcome) \
         VALUES (1, 'policy.sync', 'completed', NULL)",
    )
    .await;
}

/// A foreign key of the application's with ON DELETE SET NULL goes on working.
#[tokio::test]
async fn a_tenant_can_still_be_deleted() {
    let bed = migrated().await;
    bed.exec(
        "ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_tenant_id_fkey, \
         ADD FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE SET NULL",
    )
    .await;
    bed.store.enforce().await.unwrap();
    let run = bed.queued().await;
    bed.exec("DELETE FROM tenants WHERE id = 7").await;
    assert_eq!(bed.run(run).await.tenant_id, None);
}

/// The application's user needs no right on anything of verifyd's.
#[tokio::test]
async fn the_applications_own_user_meets_the_guards() {
    let bed = migrated().await;
    bed.store.enforce().await.unwrap();
    let run = bed.completed(&succeeded()).await;
    let done = bed.run(run).await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    bed.exec(&format!(
        "CREATE ROLE {role}; GRANT SELECT, UPDATE ON operation_runs TO {role}"
    ))
    .await;
    let saved = bed
        .try_exec(&format!(
            "BEGIN; SET LOCAL ROLE {role}; UPDATE operation_runs SET context = '{{}}', \
             outcome = NULL WHERE id = {run}; COMMIT"
        ))
        .await;
    let after = bed.run(run).await;
    bed.exec(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    saved.unwrap();
    let report = &done.context["verification_report"];
    assert_eq!(after.context, json!({ "verification_report": report }));
    assert_eq!(after.outcome, done.outcome);
}

#[tokio::test]
async fn rows_that_break_a_guard_are_counted_and_the_guard_is_left_out() {
    let bed = migrated().await;
    bed.exec(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, completed_at) VALUES \
         (3, 7, 'provider.connection.check', 'completed', NULL, now()), \
         (3, 7, 'provider.connection.check', 'completed', 'failed', NULL), \
         (3, 7, 'provider.connection.check', 'completed', 'failed', now())",
    )
    .await;
    let latest = bed
        .number("SELECT max(id) FROM operation_runs WHERE type = 'provider.connection.check'")
        .await;
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!(enforced.refused.len(), 1, "{:?}", enforced.refused);
    let refused = &enforced.refused[0];
    assert_eq!(refused.guard, "verifyd_completed_has_outcome");
    assert_eq!((refused.rows, refused.example), (2, RunId(latest - 1)));
    assert!(!enforced.added.contains(&refused.guard));
    assert!(
        enforced
            .added
            .contains(&"verifyd_blocked_has_report".to_owned())
    );
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        ["verifyd_completed_has_outcome"]
    );
    // Their own application can still change and correct these rows.
    bed.exec("UPDATE operation_runs SET priority = 1").await;
    bed.exec(&format!(
        "DELETE FROM operation_runs WHERE id < {latest} AND type = '{RUN_TYPE}'"
    ))
    .await;
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!(enforced.added, ["verifyd_completed_has_outcome"]);
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        Vec::<String>::new()
    );
}

/// What an interrupted attempt leaves behind: a constraint that is not validated, an index that
/// cannot be used, a trigger that is disabled.
#[tokio::test]
async fn what_an_interruption_left_is_finished() {
    let bed = migrated().await;
    bed.store.enforce().await.unwrap();
    bed.exec(&format!(
        "ALTER TABLE operation_runs DROP CONSTRAINT verifyd_blocked_has_report, \
         ADD CONSTRAINT verifyd_blocked_has_report CHECK (true) NOT VALID; \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('{}'::regclass, '{}'::regclass); \
         ALTER TABLE operation_runs DISABLE TRIGGER verifyd_guard_run_identity",
        INDEXES[0], INDEXES[1]
    ))
    .await;
    let missing = bed.store.guards().await.unwrap().missing;
    assert_eq!(missing, [GUARDS[1], GUARDS[4]]);
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!(
        sorted(enforced.added),
        sorted(
            [GUARDS[1], GUARDS[4], INDEXES[0], INDEXES[1]]
                .map(String::from)
                .to_vec()
        )
    );
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        Vec::<String>::new()
    );
    assert_eq!(bed.store.inspect().await.unwrap(), []);
}

/// The step that cannot get its lock gives way to the writers behind it, and is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_table_is_waited_for_without_holding_it_up() {
    let bed = migrated().await;
    let mut writer = bed.pg().begin().await.unwrap();
    sqlx::query("UPDATE operation_runs SET priority = 2")
        .execute(&mut *writer)
        .await
        .unwrap();
    let store = bed.replica().await;
    let enforcing = tokio::spawn(async move { store.enforce().await });
    // It waits for a lock on the table...
    let waiting = "pg_locks \
                   WHERE NOT granted AND relation = 'operation_runs'::regclass";
    while bed.count(waiting).await == 0 {
        assert!(!enforcing.is_finished(), "it did not have to wait");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // ...and a writer that came later is not stuck behind it for as long as the lock is held.
    bed.queued().await;
    writer.rollback().await.unwrap();
    let enforced = enforcing.await.unwrap().unwrap();
    assert_eq!(enforced.refused, vec![]);
    assert_eq!(
        bed.store.guards().await.unwrap().missing,
        Vec::<String>::new()
    );
}
