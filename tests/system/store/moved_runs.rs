//! Triggers that move a run to another tenant, workspace or time, where no guard refuses that, or delete it.

use crate::store::bed::Bed;
use crate::store::constraints::{ACCEPTED, said_while_changed};
use verifyd::ports::probe::Writing;

pub async fn a_trigger_that_moves_a_run_is_found(bed: &Bed) {
    const TENANT: &str = "tenant_id = 8";
    const WORKSPACE: &str = "workspace_id = 8";
    // It stays in its partition.
    let time = match bed.is_postgres() {
        true => "created_at = new.created_at + interval '1 microsecond'",
        false => "created_at = '2030-01-01T00:00:00.000Z'",
    };
    bed.connection(7).await;
    bed.unguard().await;
    let rules = [
        ("running", TENANT, "claiming a run"),
        ("running", WORKSPACE, "claiming a run"),
        ("queued", TENANT, "releasing a run"),
        ("completed", TENANT, "completing a run"),
        ("completed", WORKSPACE, "completing a run"),
        // Nobody's result is lost.
        ("running", time, ACCEPTED),
        ("queued", time, ACCEPTED),
        ("completed", time, ACCEPTED),
    ];
    for (number, (status, change, step)) in rules.into_iter().enumerate() {
        let name = format!("moves_{number}");
        let condition = format!("new.status = '{status}'");
        let said = said_while_changed(bed, &name, &condition, change).await;
        let (column, _) = change.split_once(' ').unwrap();
        let found = format!(
            "{step}: a trigger changes what is written to operation_runs: {column} (triggers: {name})"
        );
        assert!(said.contains(&found), "{found}: {said}");
    }
    assert_eq!(bed.count("operation_runs").await, 0);
}

/// The check of one tenant would be one of another, whoever records it.
pub async fn a_trigger_that_moves_a_new_run_is_found(bed: &Bed) {
    bed.connection(7).await;
    bed.unguard().await;
    let moves = match bed.is_postgres() {
        true => {
            "CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN new.tenant_id := 8; RETURN new; END'; \
             CREATE TRIGGER moves BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION moves()"
        }
        false => {
            "CREATE TRIGGER moves AFTER INSERT ON operation_runs \
             BEGIN UPDATE operation_runs SET tenant_id = 8 WHERE id = new.id; END"
        }
    };
    bed.exec(moves).await;
    let Writing::NotTried(refused) = bed.store.try_writing().await.unwrap() else {
        panic!("recorded")
    };
    let said = "recording a check: a trigger changes what is written to operation_runs: tenant_id (triggers: moves)";
    assert!(refused.to_string().ends_with(said), "{refused}");
    assert_eq!(bed.count("operation_runs").await, 0);
}

/// A guard refuses what the trigger writes: the function that raises the error is verifyd's.
pub async fn what_a_guard_raises_is_of_no_trigger(bed: &Bed) {
    bed.connection(7).await;
    let condition = "new.status = 'running'";
    let said = said_while_changed(bed, "moves", condition, "tenant_id = 8").await;
    assert!(said.contains("claiming a run: id, type, "), "{said}");
    assert!(!said.contains("(triggers: "), "{said}");
}

/// The producer leaves it empty.
pub async fn a_trigger_that_fills_the_tenant_of_a_run_is_accepted(bed: &Bed) {
    bed.connection(7).await;
    bed.unguard().await;
    let empties = match bed.is_postgres() {
        true => {
            "CREATE FUNCTION empties() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN new.tenant_id := NULL; RETURN new; END'; \
             CREATE TRIGGER empties BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION empties()"
        }
        false => {
            "CREATE TRIGGER empties AFTER INSERT ON operation_runs \
             BEGIN UPDATE operation_runs SET tenant_id = NULL WHERE id = new.id; END"
        }
    };
    bed.exec(empties).await;
    let condition = "new.status = 'running' AND new.tenant_id IS NULL";
    let said = said_while_changed(bed, "fills", condition, "tenant_id = 7").await;
    assert_eq!(said, format!("{ACCEPTED}: "));
    // Only a claim may fill it.
    let condition = "new.status = 'completed'";
    let said = said_while_changed(bed, "moves", condition, "tenant_id = 8").await;
    assert!(said.contains("completing a run: "), "{said}");
    assert!(said.contains(": tenant_id "), "{said}");
}

/// The application may keep results in a table of its own.
pub async fn a_trigger_that_deletes_what_is_completed_is_warned_of(bed: &Bed) {
    bed.connection(7).await;
    let delete = "DELETE FROM operation_runs WHERE id = new.id;";
    let create = match bed.is_postgres() {
        true => format!(
            "CREATE FUNCTION deletes() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN {delete} RETURN NULL; END $$; \
             CREATE TRIGGER deletes AFTER UPDATE ON operation_runs FOR EACH ROW \
             WHEN (new.status = 'completed') EXECUTE FUNCTION deletes()"
        ),
        false => format!(
            "CREATE TRIGGER deletes AFTER UPDATE ON operation_runs WHEN new.status = 'completed' \
             BEGIN {delete} END"
        ),
    };
    bed.exec(&create).await;
    let Writing::Accepted { changed, .. } = bed.store.try_writing().await.unwrap() else {
        panic!("not accepted")
    };
    let said = "a trigger changes what is written to operation_runs: type (triggers: deletes)";
    assert_eq!(changed.as_deref(), Some(said));
}
