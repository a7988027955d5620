//! Triggers that move a run to another tenant, workspace or time, where no guard refuses that.

use crate::store::bed::Bed;
use crate::store::constraints::{ACCEPTED, said_while_changed};

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
