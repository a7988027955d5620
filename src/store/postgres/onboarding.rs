//! Onboarding sessions. The column `state` is `jsonb` or, in another application's table, `json`.

use super::bounds::{has_endless_numbers, is_listed, member};
use super::{PostgresStore, run_type};
use crate::domain::onboarding::OnboardingSession;
use crate::domain::{RunId, SessionId};
use crate::ports::onboarding::OnboardingStore;
use crate::ports::recording::{ForSession, NewRun};
use crate::ports::store_error::StoreError;
use crate::store::onboarding::{SessionRow, prepare};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::PgConnection;

/// Whether the state may be loaded, in steps that each make the next one cheap (see `bounds`). The text of a
/// `json` column is as it is stored; numbers of `jsonb` may be much longer than they are stored.
macro_rules! state_fits {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN s.state IS NULL THEN true WHEN pg_column_size(s.state) > 1048576 THEN false
                  WHEN pg_column_size(s.state #> '{}') > 2097152 THEN false
                  WHEN CASE WHEN pg_typeof(s.state) = 'jsonb'::regtype THEN "
            has_endless_numbers!("(s.state::jsonb)")
            " ELSE false END THEN false ELSE octet_length(s.state::text) <= 1048576 END"
        )
    };
}

macro_rules! session {
    () => {
        $crate::store::sql::sql!(
            "SELECT s.id, s.workspace_id, s.tenant_id, CASE WHEN " state_fits!()
            " THEN s.state::text END AS state, NOT (" state_fits!()
            ") AS state_is_large FROM tenant_onboarding_sessions s WHERE s.id = $1"
        )
    };
}

/// Whoever else moves the pointer, or writes the state, waits.
const HOLD: &str = sql!(session!() " FOR NO KEY UPDATE");

const POINTED: &str = sql!(
    "SELECT CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "{provider_connection_id}")
    " END FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!()
);

/// A `json` column keeps the text as it is; to `jsonb` it is cast.
const MOVE: &str = "UPDATE tenant_onboarding_sessions SET state = $2::json WHERE id = $1";

impl PostgresStore {
    /// Points the session to the run, in the transaction that records it.
    pub(super) async fn point_session(
        &self,
        tx: &mut PgConnection,
        session: ForSession,
        new: &NewRun,
        run: RunId,
        created: bool,
    ) -> Result<(), StoreError> {
        let row: Option<SessionRow> = self
            .rows(HOLD)
            .bind(session.id.0)
            .fetch_optional(&mut *tx)
            .await?;
        let pointer = prepare(session, row, new, run, created)?;
        let connection: Option<Option<String>> = match pointer.current {
            Some(current) => {
                self.scalar(POINTED)
                    .bind(current.0)
                    .fetch_optional(&mut *tx)
                    .await?
            }
            None => None,
        };
        if let Some(state) = pointer.state(connection.as_ref().map(Option::as_deref))? {
            self.sql(MOVE)
                .bind(session.id.0)
                .bind(state)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl OnboardingStore for PostgresStore {
    async fn onboarding_session(
        &self,
        id: SessionId,
    ) -> Result<Option<OnboardingSession>, StoreError> {
        let found: Option<SessionRow> = self
            .fetch_optional(self.rows(session!()).bind(id.0))
            .await?;
        Ok(found.map(Into::into))
    }
}
