//! Rows that a producer got wrong, as `doctor`, a page and a metric name them.

use crate::store::bed::Bed;
use crate::store::pages_of_a_connection::counted;
use verifyd::domain::RunId;
use verifyd::domain::run::RUN_TYPE;

/// Nobody ever completes it, so it stays among the oldest runs.
pub async fn an_invalid_run_that_is_not_completed_is_named_whatever_its_age(bed: &Bed) {
    bed.lift_constraints().await;
    let row = |status: &str| format!("(1, 7, '{RUN_TYPE}', '{status}', 'pending')");
    let rows = ["lost", "queued", "running"].map(row).join(", ");
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
    // One whose status says nothing is found by its id.
    let lost = bed.store.invalid_run(RunId(newest - 2)).await.unwrap();
    assert_eq!(lost.unwrap().column, "status");
    let valid = bed.store.invalid_run(RunId(newest + 1)).await.unwrap();
    assert_eq!(valid, None);
}

const HISTORY_AND_BACKLOG: &str = "
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, completed_at)
    SELECT 1, 7, 'provider.connection.check', 'completed', 'failed', now() FROM generate_series(1, 5000);
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status)
    SELECT 1, 7, 'provider.connection.check', 'queued' FROM generate_series(1, 5000);
    ANALYZE operation_runs";

const ROWS_READ: &str = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables
    WHERE relid = 'operation_runs'::regclass";

/// 1,000 of the latest rows, and as many of the oldest queued runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_for_invalid_runs_passes_no_history() {
    let bed = Bed::postgres().await;
    bed.exec(HISTORY_AND_BACKLOG).await;
    let read = counted(&bed, ROWS_READ, async |store| {
        assert_eq!(store.invalid_runs(1_000, 10).await.unwrap(), []);
    });
    let read = read.await;
    assert!(read <= 3_000, "read {read} rows");
}
