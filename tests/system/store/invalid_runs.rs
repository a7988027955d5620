//! Rows that a producer got wrong, as `doctor`, a page and a metric name them.

use crate::store::bed::Bed;
use verifyd::domain::RunId;
use verifyd::domain::run::RUN_TYPE;

/// Nobody ever completes it, so it stays among the oldest runs.
pub async fn an_invalid_run_that_is_not_completed_is_named_whatever_its_age(bed: &Bed) {
    bed.lift_constraints().await;
    let row = |status: &str| format!("(1, 7, '{RUN_TYPE}', '{status}', 'pending')");
    let rows = ["queued", "running"].map(row).join(", ");
    bed.unchecked(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome) VALUES {rows}"
    ))
    .await;
    let newest = bed.number("SELECT max(id) FROM operation_runs").await;
    bed.many_queued(3).await;
    let found = bed.store.invalid_runs(1, 10).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|run| (run.operation_run_id, run.column))
        .collect();
    let expected = [(RunId(newest), "outcome"), (RunId(newest - 1), "outcome")];
    assert_eq!(found, expected);
}
