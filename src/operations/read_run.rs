//! Reads a run, or an onboarding session, with what belongs to it. What is out of reach of whoever asks does
//! not exist.

use super::OperationError;
use crate::domain::access::Binding;
use crate::domain::attempt::{AttemptEnd, AttemptRecord};
use crate::domain::budget::BudgetKey;
use crate::domain::json;
use crate::domain::run::OperationRun;
use crate::domain::run_record::{RunRecord, RunWait, SessionRecord, WaitCause};
use crate::domain::{RunId, RunStatus, SessionId};
use crate::ports::store::{Store, StoreError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Pause between two reads of a run.
const POLL: Duration = Duration::from_millis(100);

/// Reads the row of a run.
pub async fn find_run(
    store: &dyn Store,
    reach: &Binding,
    id: RunId,
) -> Result<OperationRun, OperationError> {
    store
        .run(id)
        .await?
        .filter(|run| reach.admits(run.workspace_id, run.tenant_id))
        .ok_or_else(|| OperationError::not_found("run", id))
}

/// Reads a run with what belongs to it.
pub async fn read_run(
    store: &dyn Store,
    reach: &Binding,
    id: RunId,
) -> Result<RunRecord, OperationError> {
    let run = find_run(store, reach, id).await?;
    Ok(with_what_belongs_to_it(store, run).await?)
}

async fn with_what_belongs_to_it(
    store: &dyn Store,
    run: OperationRun,
) -> Result<RunRecord, StoreError> {
    let previous = run
        .report()
        .and_then(|report| json::member(report, "previous_report_id"))
        .and_then(|id| serde_json::from_str(id).ok());
    let previous = match previous {
        Some(previous) => store.run(RunId(previous)).await?,
        None => None,
    };
    // A report that another writer wrote may name any run, and an id may be given to a later run.
    let previous = previous.filter(|p| {
        (p.workspace_id, p.tenant_id) == (run.workspace_id, run.tenant_id)
            && p.completed_at <= run.completed_at
    });
    let attempts = store.attempts(run.id).await?;
    Ok(RunRecord {
        acknowledgements: store.acknowledgements_of(run.id).await?,
        wait: wait(store, &run, &attempts).await?,
        attempts,
        previous,
        run,
    })
}

async fn wait(
    store: &dyn Store,
    run: &OperationRun,
    attempts: &[AttemptRecord],
) -> Result<Option<RunWait>, StoreError> {
    // The wait of a run that was not claimed yet belongs to an earlier run of its id, and that of one that shares its id
    // perhaps to another one.
    let may_wait = run.status == RunStatus::Queued && !run.shares_id;
    let Some(last) = attempts.last().filter(|_| may_wait) else {
        return Ok(None);
    };
    let Some(until) = store.next_attempt_at(run.id).await? else {
        return Ok(None);
    };
    let (cause, budget) = match (last.end_reason, &last.result_refusal) {
        (Some(AttemptEnd::Throttled), _) => (WaitCause::Throttled, budget(store, run).await?),
        (_, Some(_)) => (WaitCause::Refused, None),
        _ => (WaitCause::Failed, None),
    };
    Ok(Some(RunWait {
        until,
        cause,
        budget,
        database_refusal: last.result_refusal.clone(),
    }))
}

/// Returns the budget of the run's application, where there is one. The run may name the connection of another tenant.
async fn budget(store: &dyn Store, run: &OperationRun) -> Result<Option<BudgetKey>, StoreError> {
    let Some(connection) = run.request().provider_connection_id else {
        return Ok(None);
    };
    let connection = match store.connection(connection).await {
        Ok(Some((connection, _))) => connection,
        // An invalid value ends the next attempt.
        Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let owner = (Some(connection.workspace_id), Some(connection.tenant_id));
    if owner != (run.workspace_id, run.tenant_id) {
        return Ok(None);
    }
    let client = connection
        .client_id
        .and_then(|id| Uuid::try_parse(&id).ok());
    let mut budgets = store.budgets().await?.into_iter().map(|found| found.key);
    Ok(budgets.find(|key| {
        let cloud = connection.cloud.as_ref();
        Some(key.client_id) == client && cloud.is_none_or(|cloud| *cloud == key.cloud)
    }))
}

/// Returns the run as soon as it is completed, or as it stands when the time is over. `seen` is told of
/// each look.
pub async fn wait_for_run(
    store: &dyn Store,
    id: RunId,
    timeout: Duration,
    mut seen: impl FnMut(&OperationRun),
) -> Result<OperationRun, OperationError> {
    let until = Instant::now() + timeout;
    loop {
        let run = find_run(store, &Binding::EVERYTHING, id).await?;
        if run.status == RunStatus::Completed || Instant::now() >= until {
            return Ok(run);
        }
        seen(&run);
        tokio::time::sleep(POLL).await;
    }
}

/// Reads an onboarding session with the run that it points to.
pub async fn read_session(
    store: &dyn Store,
    reach: &Binding,
    id: SessionId,
) -> Result<SessionRecord, OperationError> {
    let no_such_session = || OperationError::not_found("onboarding session", id);
    let session = store
        .onboarding_session(id)
        .await?
        .filter(|session| reach.admits(session.workspace_id, session.tenant_id))
        .ok_or_else(no_such_session)?;
    let run = match session.run() {
        Some(run) => store.run(run).await?,
        None => None,
    };
    // The application may have written any number there.
    let run = run.filter(|run| session.admits(run.workspace_id, run.tenant_id));
    // A session that has no tenant yet may point to a run of any tenant of its workspace.
    if run
        .as_ref()
        .is_some_and(|run| !reach.admits(run.workspace_id, run.tenant_id))
    {
        return Err(no_such_session());
    }
    let run = match run {
        Some(run) => Some(with_what_belongs_to_it(store, run).await?),
        None => None,
    };
    Ok(SessionRecord { session, run })
}
