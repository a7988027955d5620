//! Processes runs, from a claim to the completion, and finds the runs that were lost.
//!
//! - [`pipeline`] processes one run: claim → preflight → check → outcome → complete.
//! - [`scheduling`] decides which run is next: hints, fair queuing, poison-run isolation, and the runs
//!   that are in flight here.
//! - [`reconciler`] finds what was lost: undispatched runs, dead leases, orphans of this process. It takes
//!   runs from the database while the queue is unavailable.
//! - [`lease`] is this process's right to work at all, [`liveness`] measures whether its parts make
//!   progress, and [`schema`] watches whether the database's schema fits.
//! - [`worker`] runs these parts and drains them.

pub(crate) mod heartbeats;
pub mod lease;
mod liveness;
pub mod pipeline;
pub mod reconciler;
pub(crate) mod scheduling;
pub(crate) mod schema;
pub(crate) mod settings;
pub mod worker;

use crate::ports::store::StoreError;
use std::time::Duration;

/// Returns the result of a call of the store, or an error after `limit`: a connection that passes nothing any
/// more reports no error.
async fn with_timeout<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(
            "no answer within the timeout".into(),
        ))
    })
}
