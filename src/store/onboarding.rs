//! Onboarding sessions, and the move of their pointer. The column `state` is a text in SQLite; in PostgreSQL it
//! is `jsonb` or, in another application's table, `json`. It is edited as a text.

use super::bounds::{is_listable, is_too_deep, member, numbers_exceed};
use super::dialect::{each, postgres_only, run_type};
use super::from_row::from_row;
use super::repeated_ids::is_newest_of_id;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, fetch_optional};
use super::statement::Sql;
use super::tolerant_decoding::Text;
use crate::domain::json::Json;
use crate::domain::onboarding::{OnboardingSession, Pointed, SessionError, moves, point};
use crate::domain::run::RunRequest;
use crate::domain::{ConnectionId, RunId, SessionId, TenantId, WorkspaceId};
use crate::ports::onboarding::OnboardingStore;
use crate::ports::recording::{ForSession, NewRun};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde_json::value::RawValue;

/// Why the state is not loaded: `large`, `deep` or NULL. In steps that each make the next one cheap (see `bounds`).
/// The text of a `json` column is as it is stored; numbers of `jsonb` may be much longer than they are stored.
macro_rules! excess {
    (postgres) => {
        concat!(
            "CASE WHEN s.state IS NULL THEN NULL WHEN pg_column_size(s.state) > 1048576 THEN 'large'
                  WHEN pg_column_size(s.state #> '{}') > 2097152 THEN 'large'
                  WHEN CASE WHEN pg_typeof(s.state) = 'jsonb'::regtype THEN ",
            is_too_deep!("(s.state::jsonb)"),
            " ELSE false END THEN 'deep'
                  WHEN CASE WHEN pg_typeof(s.state) = 'jsonb'::regtype THEN ",
            numbers_exceed!("(s.state::jsonb)", "1048576"),
            " ELSE false END THEN 'large'
                  WHEN octet_length(s.state::text) > 1048576 THEN 'large' END"
        )
    };
    (sqlite) => {
        "CASE WHEN octet_length(s.state) > 1048576 THEN 'large' END"
    };
}

macro_rules! session {
    ($db:ident) => {
        sql_for!(
            $db "SELECT s.id, s.workspace_id, s.tenant_id, CASE WHEN (" excess!()
            ") IS NULL THEN CAST(s.state AS text) END AS state, " excess!()
            " AS excess FROM tenant_onboarding_sessions s WHERE s.id = $1"
        )
    };
}

const SESSION: Sql = both!(session!());

/// Whoever else moves the pointer, or writes the state, waits.
const HOLD: Sql = both!(session!() postgres_only!(" FOR NO KEY UPDATE"));

const POINTED: Sql = both!(
    "SELECT CASE WHEN " is_listable!("r.context") " THEN " member!("r.context", provider_connection_id)
    " END FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!() " AND " is_newest_of_id!("r")
);

/// A `json` column keeps the text as it is; to `jsonb` it is cast.
const MOVE: Sql = both!(
    "UPDATE tenant_onboarding_sessions SET state = " each!("$2::json", "$2") " WHERE id = $1"
);

#[async_trait]
impl<S: SqlStore> OnboardingStore for S {
    async fn onboarding_session(
        &self,
        id: SessionId,
    ) -> Result<Option<OnboardingSession>, StoreError> {
        let found: Option<SessionRow> = fetch_optional(self, SESSION.bind(id.0)).await?;
        Ok(found.map(Into::into))
    }
}

/// Points the session to the run, in the transaction that records it.
pub(super) async fn point_session(
    tx: &mut dyn SqlConnection,
    session: ForSession,
    new: &NewRun,
    run: RunId,
    created: bool,
) -> Result<(), StoreError> {
    let row: Option<SessionRow> = HOLD.bind(session.id.0).fetch_optional(tx).await?;
    let pointer = prepare(session, row, new, run, created)?;
    let connection: Option<(Option<String>,)> = match pointer.current {
        Some(current) => POINTED.bind(current.0).fetch_optional(tx).await?,
        None => None,
    };
    let connection = connection.as_ref().map(|(id,)| id.as_deref());
    if let Some(state) = pointer.state(connection)? {
        MOVE.bind(session.id.0).bind(state).execute(tx).await?;
    }
    Ok(())
}

from_row! {
    /// `tenant_onboarding_sessions`; the state as text, because it is edited in place. One with an `excess` is NULL.
    #[derive(Debug)]
    struct SessionRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        state: Option<Text>,
        excess: Option<String>,
    }
}

impl From<SessionRow> for OnboardingSession {
    fn from(row: SessionRow) -> Self {
        let refused = |problem: &str| (Json::default(), Some(problem.to_owned()));
        let (state, problem) = match (row.excess.as_deref(), row.state) {
            (Some("deep"), _) => refused("it is nested too deep, allowed: 1,000 levels"),
            (Some(_), _) => refused("it is too large, allowed: at most 1048576 bytes"),
            (None, None) => (Json::default(), None),
            (None, Some(text)) if serde_json::from_str::<&RawValue>(&text.0).is_err() => {
                refused("it is not JSON")
            }
            (None, Some(text)) => (Json::of(&text.0), None),
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
struct Move {
    session: SessionId,
    state: String,
    /// Where it points now.
    current: Option<RunId>,
    run: RunId,
    connection: ConnectionId,
    created: bool,
}

/// Checks whether this session, if it exists within reach, may point to a run made of `new`. Every pointer
/// that verifyd moves is checked here.
fn prepare(
    asked: ForSession,
    row: Option<SessionRow>,
    new: &NewRun,
    run: RunId,
    created: bool,
) -> Result<Move, StoreError> {
    let refused = |misfit: SessionError| StoreError::Refused(misfit.to_string().into());
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
            let why = format!("context.provider_connection_id is missing: onboarding session {id} is to point to it");
            StoreError::Refused(why.into())
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
    fn state(&self, connection: Option<Option<&str>>) -> Result<Option<String>, StoreError> {
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
    let table = "tenant_onboarding_sessions";
    StoreError::corrupt(table, "state", row, "it is not JSON")
}
