//! What a store says of its connections.

use crate::store::bed::Bed;
use crate::store::fixtures::succeeded;
use std::sync::Arc;
use test_support::waiting::until;

pub async fn a_connection_counts_as_used_until_its_call_ends(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let used = || -> u32 { bed.store.pools().iter().map(|pool| pool.used).sum() };
    until("none is used", async || used() == 0).await;
    let lock = bed.lock_run(run).await;
    let store = Arc::clone(&bed.store);
    let completing = tokio::spawn(async move { store.complete(&held, &succeeded()).await });
    until("one is used", async || used() == 1).await;
    lock.release().await;
    assert!(completing.await.unwrap().unwrap());
    until("none is used again", async || used() == 0).await;
    let pools = bed.store.pools();
    assert!(pools.iter().any(|pool| pool.idle > 0), "{pools:?}");
    assert!(pools.iter().all(|pool| pool.idle <= pool.max), "{pools:?}");
    // See `bed::settings`.
    assert!(pools.iter().any(|pool| pool.max == 8), "{pools:?}");
}
