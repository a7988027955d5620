//! Onboarding sessions. The column `state` is a text; it is edited as one.

use super::{SqliteStore, Tx, run_type};
use crate::domain::onboarding::OnboardingSession;
use crate::domain::{RunId, SessionId};
use crate::ports::onboarding::OnboardingStore;
use crate::ports::store::{ForSession, NewRun, StoreError};
use crate::store::error::from_sqlx;
use crate::store::onboarding::{SessionRow, prepare};
use async_trait::async_trait;
use serde_json::Value;

const SESSION: &str = "\
    SELECT id, workspace_id, tenant_id, state FROM tenant_onboarding_sessions WHERE id = $1";

const POINTED: &str = concat!(
    "SELECT context FROM operation_runs WHERE id = $1 AND type = ",
    run_type!()
);

const MOVE: &str = "UPDATE tenant_onboarding_sessions SET state = $2 WHERE id = $1";

/// Points the session to the run, in the transaction that records it.
pub(super) async fn point_session(
    tx: &mut Tx,
    session: ForSession,
    new: &NewRun,
    run: RunId,
    created: bool,
) -> Result<(), StoreError> {
    let row: Option<SessionRow> = sqlx::query_as(SESSION)
        .bind(session.id.0)
        .fetch_optional(&mut **tx)
        .await
        .map_err(from_sqlx)?;
    let pointer = prepare(session, row, new, run, created)?;
    let context: Option<Value> = match pointer.current {
        Some(current) => sqlx::query_scalar(POINTED)
            .bind(current.0)
            .fetch_optional(&mut **tx)
            .await
            .map_err(from_sqlx)?,
        None => None,
    };
    if let Some(state) = pointer.state(context.as_ref())? {
        sqlx::query(MOVE)
            .bind(session.id.0)
            .bind(state)
            .execute(&mut **tx)
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        found.map(TryInto::try_into).transpose()
    }
}
