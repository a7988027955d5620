//! The row that a sweep locks in PostgreSQL, so that one replica at a time sweeps.

use crate::store::bed::Bed;
use crate::store::fixtures::SWEEP;

/// Any role that may connect can take an advisory lock. A producer cannot lock the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_needs_the_lock_of_its_row_and_no_other() {
    let bed = Bed::postgres().await;
    let mut other = bed.pg().begin().await.unwrap();
    for key in 1..=3_i32 {
        sqlx::query("SELECT pg_advisory_xact_lock(1986359913, $1)")
            .bind(key)
            .execute(&mut *other)
            .await
            .unwrap();
    }
    let run = bed.queued().await;
    assert_eq!(bed.sweep().await.due, [run]);
    other.rollback().await.unwrap();
    let mut replica = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT id FROM verifyd.sweep_lock FOR UPDATE")
        .execute(&mut *replica)
        .await
        .unwrap();
    assert_eq!(bed.store.sweep(&SWEEP).await.unwrap(), None);
    replica.rollback().await.unwrap();
    bed.sweep().await;
}

/// Its commit would wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_writes_nothing_is_rolled_back() {
    const LAST: &str = "SELECT pg_xact_status(xmax::text::xid8) FROM verifyd.sweep_lock";
    let bed = Bed::postgres().await;
    bed.queued().await;
    for (due, status) in [(1, "committed"), (0, "aborted")] {
        assert_eq!(bed.sweep().await.due.len(), due);
        assert_eq!(bed.text(LAST).await, status);
    }
}

/// A backup may be restored in part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_adds_the_row_of_its_lock() {
    let bed = Bed::postgres().await;
    bed.exec("DELETE FROM verifyd.sweep_lock").await;
    let run = bed.queued().await;
    assert_eq!(bed.sweep().await.due, [run]);
    assert_eq!(bed.count("verifyd.sweep_lock").await, 1);
}
