//! Starts a check of a connection: records a run and sends its hint, as a producer does.

use super::OperationError;
use super::connections::find_connection;
use crate::domain::access::Binding;
use crate::domain::connection::{ConnectionStatus, ProviderConnection};
use crate::domain::hint::Hint;
use crate::domain::onboarding::SessionError;
use crate::domain::{ConnectionId, SessionId};
use crate::ports::provider::Providers;
use crate::ports::queue::{Queue, QueueError};
use crate::ports::store::{ForSession, NewRun, Recorded, Store, StoreError};
use crate::ports::traces;
use serde_json::{Value, json};

/// A request to check a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    pub connection: ConnectionId,
    /// What whoever asks may reach.
    pub reach: Binding,
    /// `None`: the connection's own module, or else the provider's first.
    pub module: Option<String>,
    /// The onboarding session that is pointed to the run, or to the active run that is returned.
    pub onboarding_session: Option<SessionId>,
}

impl CheckRequest {
    /// A check of this connection's own module, for whoever reaches everything.
    pub const fn of(connection: ConnectionId) -> Self {
        Self {
            connection,
            reach: Binding::EVERYTHING,
            module: None,
            onboarding_session: None,
        }
    }
}

/// A recorded run, and whether its hint could be sent. Without a hint the sweep finds it.
#[derive(Debug)]
pub struct StartedCheck {
    pub recorded: Recorded,
    pub hint: Result<(), QueueError>,
}

/// Records a check of a connection and sends the hint. An active run of the connection is returned in
/// place of a second one. Pass no queue where no worker listens to it: the database wakes the workers, or
/// they find the run in their next sweep.
///
/// A connection that is disabled, or whose row cannot be used, is refused. So is a module that its provider
/// does not know. A provider that this process does not know is left to the workers.
pub async fn start_check(
    store: &dyn Store,
    queue: Option<&dyn Queue>,
    providers: &Providers,
    request: &CheckRequest,
) -> Result<StartedCheck, OperationError> {
    let id = request.connection;
    let state = find_connection(store, &request.reach, id).await?;
    let connection = &state.connection;
    let unusable = |problem: String| OperationError::Unusable { id, problem };
    if let Some(problem) = state.problem {
        return Err(unusable(format!("its row cannot be used: {problem}")));
    }
    if connection.status == ConnectionStatus::Disabled {
        return Err(unusable(format!(
            "it is disabled; \u{201c}verifyd connections enable {id}\u{201d} enables it"
        )));
    }
    let module = request.module.as_deref();
    if let (Some(module), Some(provider)) = (module, providers.get(&connection.provider)) {
        is_known(module, &provider.modules())?;
    }
    let session = request.onboarding_session.map(|id| ForSession {
        id,
        reach: request.reach,
    });
    if let Some(session) = session {
        fits(store, session, connection).await?;
    }
    let mut context = context_for(providers, connection, module);
    if let Some(span) = traces::current() {
        context["traceparent"] = json!(span.to_string());
    }
    Ok(record_and_hint(store, queue, connection, context, session).await?)
}

/// Tests the name of a module.
pub(super) fn is_known(module: &str, known: &[&str]) -> Result<(), OperationError> {
    if known.contains(&module) {
        return Ok(());
    }
    Err(OperationError::unknown_name("module", module, known))
}

/// Tests whether the session may point to a run of the connection. The store tests it again, in its
/// transaction.
async fn fits(
    store: &dyn Store,
    session: ForSession,
    connection: &ProviderConnection,
) -> Result<(), OperationError> {
    let found = store
        .onboarding_session(session.id)
        .await?
        .filter(|found| session.reach.admits(found.workspace_id, found.tenant_id))
        .ok_or(SessionError::Missing(session.id))?;
    if !found.admits(Some(connection.workspace_id), Some(connection.tenant_id)) {
        return Err(SessionError::Foreign(session.id).into());
    }
    match found.problem {
        Some(problem) => Err(SessionError::Unreadable(session.id, problem).into()),
        None => Ok(()),
    }
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
        Some(queue) if recorded.created => {
            let hint = [Hint::new(recorded.run_id)];
            queue.send_for(connection.workspace_id, &hint).await
        }
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
