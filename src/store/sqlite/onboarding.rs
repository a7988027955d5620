//! Onboarding sessions. The column `state` is a text, and is edited as one.

use super::bounds::{is_listed, member};
use super::{SqliteStore, run_type};
use crate::domain::onboarding::OnboardingSession;
use crate::domain::{RunId, SessionId};
use crate::ports::onboarding::OnboardingStore;
use crate::ports::recording::{ForSession, NewRun};
use crate::ports::store_error::StoreError;
use crate::store::onboarding::{SessionRow, prepare};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::SqliteConnection;

const SESSION: &str = "
    SELECT id, workspace_id, tenant_id,
        CASE WHEN octet_length(state) <= 1048576 THEN state END AS state,
        octet_length(state) > 1048576 AS state_is_large
    FROM tenant_onboarding_sessions WHERE id = $1";

const POINTED: &str = sql!(
    "SELECT CASE WHEN " is_listed!("context") " THEN " member!("context", "$.provider_connection_id")
    " END FROM operation_runs WHERE id = $1 AND type = " run_type!()
);

const MOVE: &str = "UPDATE tenant_onboarding_sessions SET state = $2 WHERE id = $1";

/// Points the session to the run, in the transaction that records it.
pub(super) async fn point_session(
    tx: &mut SqliteConnection,
    session: ForSession,
    new: &NewRun,
    run: RunId,
    created: bool,
) -> Result<(), StoreError> {
    let row: Option<SessionRow> = sqlx::query_as(SESSION)
        .bind(session.id.0)
        .fetch_optional(&mut *tx)
        .await?;
    let pointer = prepare(session, row, new, run, created)?;
    let connection: Option<Option<String>> = match pointer.current {
        Some(current) => {
            sqlx::query_scalar(POINTED)
                .bind(current.0)
                .fetch_optional(&mut *tx)
                .await?
        }
        None => None,
    };
    if let Some(state) = pointer.state(connection.as_ref().map(Option::as_deref))? {
        sqlx::query(MOVE)
            .bind(session.id.0)
            .bind(state)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

#[async_trait]
impl OnboardingStore for SqliteStore {
    async fn onboarding_session(
        &self,
        id: SessionId,
    ) -> Result<Option<OnboardingSession>, StoreError> {
        let found: Option<SessionRow> = sqlx::query_as(SESSION)
            .bind(id.0)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        Ok(found.map(Into::into))
    }
}
