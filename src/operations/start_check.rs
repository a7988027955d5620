//! Starts a check of a connection: records a run and sends its hint, as a producer does.

use crate::domain::connection::ProviderConnection;
use crate::domain::hint::Hint;
use crate::domain::onboarding::SessionError;
use crate::ports::provider::Providers;
use crate::ports::queue::{Queue, QueueError};
use crate::ports::store::{ForSession, NewRun, Recorded, Store, StoreError};
use serde_json::{Value, json};

/// A recorded run, and whether its hint could be sent. Without a hint the sweep finds it.
#[derive(Debug)]
pub struct StartedCheck {
    pub recorded: Recorded,
    pub hint: Result<(), QueueError>,
}

/// Records a check of this connection and sends the hint. An active run of the connection is returned in
/// place of a second one. Pass no queue where no worker listens to it: the database wakes the workers, or
/// they find the run in their next sweep.
pub async fn start_check(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    providers: &Providers,
    connection: &ProviderConnection,
    module: Option<&str>,
) -> Result<StartedCheck, StoreError> {
    let context = context_for(providers, connection, module);
    record_and_hint(store, queue, connection, context, None).await
}

/// Why a check was not started for an onboarding session.
#[derive(Debug, thiserror::Error)]
pub enum StartCheckError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Starts a check for an onboarding session: in the transaction that records the run, the session is
/// pointed to it, or to the active run that is returned.
pub async fn start_check_for_session(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    providers: &Providers,
    connection: &ProviderConnection,
    module: Option<&str>,
    session: ForSession,
) -> Result<StartedCheck, StartCheckError> {
    // The store tests it again, in its transaction.
    let found = store
        .onboarding_session(session.id)
        .await?
        .filter(|found| session.reach.admits(found.workspace_id, found.tenant_id))
        .ok_or(SessionError::Missing(session.id))?;
    if !found.admits(Some(connection.workspace_id), Some(connection.tenant_id)) {
        return Err(SessionError::Foreign(session.id).into());
    }
    if let Some(problem) = found.problem {
        return Err(SessionError::Unreadable(session.id, problem).into());
    }
    let context = context_for(providers, connection, module);
    Ok(record_and_hint(store, queue, connection, context, Some(session)).await?)
}

async fn record_and_hint(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    connection: &ProviderConnection,
    context: Value,
    onboarding_session: Option<ForSession>,
) -> Result<StartedCheck, StoreError> {
    let recorded = store
        .record(&NewRun {
            workspace_id: connection.workspace_id,
            tenant_id: Some(connection.tenant_id),
            context,
            unless_active: Some(connection.id),
            onboarding_session,
        })
        .await?;
    let hint = match queue {
        Some(queue) if recorded.created => queue.send(&[Hint::new(recorded.run_id)]).await,
        _ => Ok(()),
    };
    if recorded.created && (hint.is_err() || queue.is_none()) {
        // Otherwise the sweep would wait for the hint that was not sent.
        store.mark_undispatched(&[recorded.run_id]).await?;
        if let Err(error) = store.wake().await {
            tracing::debug!(%error, "cannot wake the workers; their next sweep finds the run");
        }
    }
    Ok(StartedCheck { recorded, hint })
}

/// Returns `operation_runs.context` of a check of this connection, with the module that is checked when
/// none is named.
pub fn context_for(
    providers: &Providers,
    connection: &ProviderConnection,
    module: Option<&str>,
) -> Value {
    let default = || Some(*providers.get(&connection.provider)?.modules().first()?);
    let module = module.or(connection.module.as_deref()).or_else(default);
    let mut context = json!({
        "provider": connection.provider,
        "module": module,
        "provider_connection_id": connection.id,
        "target_scope": { "entra_tenant_id": connection.entra_tenant_id },
    });
    if let Some(name) = &connection.display_name {
        context["target_scope"]["entra_tenant_name"] = json!(name);
    }
    context
}
