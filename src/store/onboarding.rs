//! Onboarding sessions as rows, for both databases, and the move of their pointer.

use super::from_row::from_row;
use super::tolerant_decoding::{self, Text};
use crate::domain::onboarding::{OnboardingSession, Pointed, SessionError, moves, point};
use crate::domain::run::RunRequest;
use crate::domain::{ConnectionId, RunId, SessionId, TenantId, WorkspaceId};
use crate::ports::recording::{ForSession, NewRun};
use crate::ports::store_error::StoreError;
use serde_json::Value;
use serde_json::value::RawValue;

/// Largest state that is read, in bytes.
const STATE_BYTES: u32 = 1_048_576;

from_row! {
    /// `tenant_onboarding_sessions`; the state as text, because it is edited in place. A state that is too
    /// large is NULL, and `state_is_large` is true.
    #[derive(Debug)]
    pub(super) struct SessionRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        pub state: Option<Text>,
        state_is_large: bool,
    }
}

impl From<SessionRow> for OnboardingSession {
    fn from(row: SessionRow) -> Self {
        let (state, problem) = match row.state {
            _ if row.state_is_large => (
                Value::Null,
                Some(format!(
                    "it is too large, allowed: at most {STATE_BYTES} bytes"
                )),
            ),
            None => (Value::Null, None),
            Some(text) if serde_json::from_str::<&RawValue>(&text.0).is_err() => {
                (Value::Null, Some("it is not JSON".to_owned()))
            }
            Some(text) => (tolerant_decoding::read(&text.0), None),
        };
        Self {
            id: SessionId(row.id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            state,
            problem,
        }
    }
}

/// The new target of a session whose row the transaction has locked.
#[derive(Debug)]
pub(super) struct Move {
    session: SessionId,
    state: String,
    /// Where it points now.
    pub current: Option<RunId>,
    run: RunId,
    connection: ConnectionId,
    created: bool,
}

/// Checks whether this session, if it exists within reach, may point to a run made of `new`. Every pointer
/// that verifyd moves is checked here.
pub(super) fn prepare(
    asked: ForSession,
    row: Option<SessionRow>,
    new: &NewRun,
    run: RunId,
    created: bool,
) -> Result<Move, StoreError> {
    let refused = |misfit: SessionError| StoreError::Refused(misfit.to_string());
    let ForSession { id, reach } = asked;
    let row = row.ok_or_else(|| refused(SessionError::Missing(id)))?;
    let state = row
        .state
        .clone()
        .map_or_else(|| "{}".to_owned(), |text| text.0);
    let session = OnboardingSession::from(row);
    if !reach.admits(session.workspace_id, session.tenant_id) {
        return Err(refused(SessionError::Missing(id)));
    }
    if !session.admits(Some(new.workspace_id), new.tenant_id) {
        return Err(refused(SessionError::Foreign(id)));
    }
    if let Some(problem) = session.problem {
        return Err(refused(SessionError::Unreadable(id, problem)));
    }
    let connection = RunRequest::from_context(&new.context)
        .provider_connection_id
        .ok_or_else(|| {
            StoreError::Refused(format!(
                "context.provider_connection_id is missing: onboarding session {id} is to point to it"
            ))
        })?;
    Ok(Move {
        session: id,
        state,
        current: session.run(),
        run,
        connection,
        created,
    })
}

impl Move {
    /// Returns the new text of `state`, unless the pointer stays. `connection` is the connection of the run
    /// that the session points to now, if there is such a run.
    pub(super) fn state(
        &self,
        connection: Option<Option<&str>>,
    ) -> Result<Option<String>, StoreError> {
        let current = self.current.map(|run| Pointed {
            run,
            // A run without a connection is of no connection that was asked for.
            connection: connection.map(|connection| {
                let id = connection.and_then(|id| id.parse().ok());
                id.unwrap_or(ConnectionId(0))
            }),
        });
        if !moves(current, self.run, self.connection, self.created) {
            return Ok(None);
        }
        point(&self.state, self.run, self.connection)
            .map(Some)
            .map_err(|_| not_json(self.session.0))
    }
}

fn not_json(row: i64) -> StoreError {
    StoreError::Corrupt {
        table: "tenant_onboarding_sessions",
        column: "state",
        row: row.to_string(),
        why: "it is not JSON".into(),
    }
}
