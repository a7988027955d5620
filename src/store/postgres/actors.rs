//! The identities through which acknowledgements were made and withdrawn.

use super::PostgresStore;
use crate::domain::AcknowledgementId;
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::ports::store_error::StoreError;
use crate::store::acknowledgements::{ACKNOWLEDGED, ActorRow, WITHDRAWN, attach};
use sqlx::PgConnection;

/// With the time that the acknowledgement's own row has, however exact its column is.
const NOTE_ACKNOWLEDGED: &str = "
    INSERT INTO verifyd.acknowledgement_actors
        (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
    SELECT a.id, a.operation_run_id, $2, a.acknowledged_at::timestamptz, $3, $4, $5
    FROM verification_check_acknowledgements a WHERE a.id = $1 ON CONFLICT DO NOTHING";

const NOTE_WITHDRAWN: &str = "
    INSERT INTO verifyd.acknowledgement_actors
        (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
    SELECT a.id, a.operation_run_id, $2, a.withdrawn_at::timestamptz, $3, $4, $5
    FROM verification_check_acknowledgements a WHERE a.id = $1 ON CONFLICT DO NOTHING";

const NOTED: &str = "
    SELECT acknowledgement_id, operation_run_id, action, at, surface, token_id, name
    FROM verifyd.acknowledgement_actors WHERE acknowledgement_id = ANY($1)";

impl PostgresStore {
    pub(super) async fn note_acknowledged(
        &self,
        tx: &mut PgConnection,
        id: AcknowledgementId,
        through: &Actor,
    ) -> Result<(), StoreError> {
        self.note(tx, NOTE_ACKNOWLEDGED, ACKNOWLEDGED, id, through)
            .await
    }

    pub(super) async fn note_withdrawn(
        &self,
        tx: &mut PgConnection,
        id: AcknowledgementId,
        through: &Actor,
    ) -> Result<(), StoreError> {
        self.note(tx, NOTE_WITHDRAWN, WITHDRAWN, id, through).await
    }

    async fn note(
        &self,
        tx: &mut PgConnection,
        statement: &'static str,
        action: &'static str,
        id: AcknowledgementId,
        through: &Actor,
    ) -> Result<(), StoreError> {
        let noted = self
            .sql(statement)
            .bind(id.0)
            .bind(action)
            .bind(through.surface.as_str())
            .bind(through.token_id.map(|id| id.0))
            .bind(&through.name)
            .execute(&mut *tx)
            .await;
        Ok(noted.map(|_| ())?)
    }

    /// Completes what was read of acknowledgements.
    pub(super) async fn with_actors(
        &self,
        tx: &mut PgConnection,
        mut all: Vec<Acknowledgement>,
    ) -> Result<Vec<Acknowledgement>, StoreError> {
        if all.is_empty() {
            return Ok(all);
        }
        let ids: Vec<i64> = all.iter().map(|a| a.id.0).collect();
        let noted: Vec<ActorRow> = self.rows(NOTED).bind(ids).fetch_all(&mut *tx).await?;
        attach(&mut all, noted)?;
        Ok(all)
    }

    /// Adds the identity to one acknowledgement.
    pub(super) async fn with_actor(
        &self,
        tx: &mut PgConnection,
        one: Acknowledgement,
    ) -> Result<Acknowledgement, StoreError> {
        let id = one.id;
        let found = self.with_actors(tx, vec![one]).await?;
        let found = found.into_iter().find(|a| a.id == id);
        found.ok_or_else(|| StoreError::Refused("an acknowledgement no longer exists".into()))
    }
}
