//! How PostgreSQL compresses the reports of ordinary completions.

use crate::store::bed::Bed;
use crate::store::fixtures::{change_report, claim, succeeded};
use serde_json::json;
use verifyd::domain::RunId;

/// The method that a completion through a new replica has used.
async fn method(bed: &Bed) -> Option<String> {
    let store = bed.replica().await;
    let run: RunId = bed.queued().await;
    let held = claim(&store, run, "w1").await;
    let mut completion = succeeded();
    change_report(&mut completion, |report| {
        // Long enough to be compressed, and nothing but repetition.
        report["checks"][0]["message"] = json!("All is as it should be. ".repeat(400));
    });
    assert!(store.complete(&held, &completion).await.unwrap());
    sqlx::query_scalar("SELECT pg_column_compression(context) FROM operation_runs WHERE id = $1")
        .bind(run.0)
        .fetch_one(bed.pg())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_are_compressed_by_lz4_where_nobody_has_chosen_otherwise() {
    let bed = Bed::postgres().await;
    assert_eq!(method(&bed).await.as_deref(), Some("lz4"));
    bed.set("default_toast_compression = 'pglz'").await;
    assert_eq!(method(&bed).await.as_deref(), Some("pglz"));
}
