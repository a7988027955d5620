//! Lists the worker processes.

use super::OperationError;
use crate::domain::access::Binding;
use crate::ports::store::Store;
use crate::ports::workers::WorkerRecord;

/// Returns whether workers are within reach. They serve all workspaces and belong to none.
pub fn may_list_workers(reach: &Binding) -> bool {
    *reach == Binding::EVERYTHING
}

/// Lists the workers with a heartbeat within the last day.
pub async fn list_workers(
    store: &dyn Store,
    reach: &Binding,
) -> Result<Vec<WorkerRecord>, OperationError> {
    if !may_list_workers(reach) {
        return Err(OperationError::not_found("list", "workers"));
    }
    Ok(store.workers().await?)
}
