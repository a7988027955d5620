//! Recording a run and sending its hint, as a producer does.

use crate::domain::connection::ProviderConnection;
use crate::domain::job::Hint;
use crate::domain::onboarding::SessionMisfit;
use crate::ports::provider::Providers;
use crate::ports::queue::{Queue, QueueError};
use crate::ports::store::{ForSession, NewRun, Recorded, Store, StoreError};
use serde_json::{Value, json};

/// A recorded run, and whether its hint could be sent. Without a hint the sweep finds it.
#[derive(Debug)]
pub struct Submitted {
    pub recorded: Recorded,
    pub hint: Result<(), QueueError>,
}

/// Records a check of this connection and sends the hint. An active run of the connection is
/// returned in place of a second one. Without a queue that workers listen to, pass none: the workers
/// are woken by the database, or find the run in their next sweep.
pub async fn submit(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    providers: &Providers,
    connection: &ProviderConnection,
    module: Option<&str>,
) -> Result<Submitted, StoreError> {
    let context = context_for(providers, connection, module);
    record_and_hint(store, queue, connection, context, None).await
}

/// Why a check was not started for an onboarding session.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Session(#[from] SessionMisfit),
}

/// The same for an onboarding session: in the transaction that records the run, the session is
/// pointed to it, or to the active run that is returned.
pub async fn submit_for_session(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    providers: &Providers,
    connection: &ProviderConnection,
    module: Option<&str>,
    session: ForSession,
) -> Result<Submitted, SubmitError> {
    // The store tests it again, in its transaction.
    let found = store
        .onboarding_session(session.id)
        .await?
        .filter(|found| session.reach.admits(found.workspace_id, found.tenant_id))
        .ok_or(SessionMisfit::Missing(session.id))?;
    if !found.admits(Some(connection.workspace_id), Some(connection.tenant_id)) {
        return Err(SessionMisfit::Foreign(session.id).into());
    }
    if let Some(problem) = found.problem {
        return Err(SessionMisfit::Unreadable(session.id, problem).into());
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
) -> Result<Submitted, StoreError> {
    let recorded = store
        .record(&NewRun {
            workspace_id: connection.workspace_id,
            tenant_id: Some(connection.tenant_id),
            context,
            unless_active: Some(connection.id),
            onboarding_session,
        })
        .await?;
    if !recorded.created {
        return Ok(Submitted {
            recorded,
            hint: Ok(()),
        });
    }
    let hint = match queue {
        Some(queue) => queue.send(&[Hint::new(recorded.run_id)]).await,
        None => Ok(()),
    };
    if hint.is_err() || queue.is_none() {
        // Otherwise the sweep would wait for the hint that never went out.
        store.mark_undispatched(&[recorded.run_id]).await?;
        if let Err(error) = store.wake().await {
            tracing::debug!(%error, "the sweep finds the run without being woken");
        }
    }
    Ok(Submitted { recorded, hint })
}

/// `operation_runs.context` of a check of this connection: whole, with the module that is checked when
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
