//! Releases orphans of this process: claims whose answer was lost, and runs that were dropped while the
//! heartbeat failed.

use super::SWEEP_TIMEOUT;
use super::sweep::ids;
use crate::domain::RunId;
use crate::engine::with_timeout;
use crate::engine::worker::WorkerState;
use crate::ports::log_throttle::log_limited;
use crate::ports::store::{OpenAttempt, Store, StoreError};

/// Releases the orphans of this process, and logs what it released.
pub(super) async fn release(store: &dyn Store, worker: &WorkerState) {
    match with_timeout(SWEEP_TIMEOUT, release_orphans(store, worker)).await {
        Ok(runs) if runs.is_empty() => {}
        Ok(runs) => {
            metrics::counter!("verifyd_orphans_released_total").increment(runs.len() as u64);
            log_limited!(warn, runs = ?ids(&runs), "released orphans: their runs are queued again");
        }
        // The sweep logs it, too, as a warning.
        Err(error) => tracing::debug!(%error, "cannot read open attempts; trying again later"),
    }
}

/// Reads the database first. Every attempt that is open there was registered as in flight before its claim
/// was sent, so one that is not in flight afterwards has ended or was lost.
async fn release_orphans(
    store: &dyn Store,
    worker: &WorkerState,
) -> Result<Vec<RunId>, StoreError> {
    let open = store.open_attempts(&worker.id).await?;
    let orphans: Vec<OpenAttempt> = open
        .into_iter()
        .filter(|attempt| !worker.in_flight.contains(attempt.run))
        .collect();
    if orphans.is_empty() {
        return Ok(Vec::new());
    }
    store.release_orphaned(&worker.id, &orphans).await
}
