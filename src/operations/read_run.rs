//! Reads a run, or an onboarding session, with what belongs to it.

use crate::domain::run_record::{RunRecord, SessionRecord};
use crate::domain::{RunId, SessionId};
use crate::ports::store::{Store, StoreError};
use serde_json::Value;

/// Reads a run with what belongs to it. `None`: no such run of verifyd's type.
pub async fn read_run(store: &dyn Store, id: RunId) -> Result<Option<RunRecord>, StoreError> {
    let Some(run) = store.run(id).await? else {
        return Ok(None);
    };
    let previous = run
        .report()
        .and_then(|report| report.get("previous_report_id"))
        .and_then(Value::as_i64);
    let previous = match previous {
        Some(previous) => store.run(RunId(previous)).await?,
        None => None,
    };
    // A report that another writer wrote may name any run, and an id may be given to a later run.
    let previous = previous.filter(|p| {
        (p.workspace_id, p.tenant_id) == (run.workspace_id, run.tenant_id)
            && p.completed_at <= run.completed_at
    });
    Ok(Some(RunRecord {
        attempts: store.attempts(id).await?,
        acknowledgements: store.acknowledgements_of(id).await?,
        previous,
        run,
    }))
}

/// Reads an onboarding session with the run that it points to. `None`: no such session.
pub async fn read_session(
    store: &dyn Store,
    id: SessionId,
) -> Result<Option<SessionRecord>, StoreError> {
    let Some(session) = store.onboarding_session(id).await? else {
        return Ok(None);
    };
    let run = match session.run() {
        Some(run) => read_run(store, run).await?,
        None => None,
    };
    // The application may have written any number there.
    let run = run.filter(|r| session.admits(r.run.workspace_id, r.run.tenant_id));
    Ok(Some(SessionRecord { session, run }))
}
