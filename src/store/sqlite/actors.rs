//! The identities through which acknowledgements were made and withdrawn.

use super::id_list;
use crate::domain::AcknowledgementId;
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::ports::store_error::StoreError;
use crate::store::acknowledgements::{ACKNOWLEDGED, ActorRow, WITHDRAWN, attach};
use sqlx::SqliteConnection;

/// With the time that the acknowledgement's own row has.
const NOTE_ACKNOWLEDGED: &str = "
    INSERT OR IGNORE INTO verifyd_acknowledgement_actors
        (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
    SELECT a.id, a.operation_run_id, $2, a.acknowledged_at, $3, $4, $5
    FROM verification_check_acknowledgements a WHERE a.id = $1";

const NOTE_WITHDRAWN: &str = "
    INSERT OR IGNORE INTO verifyd_acknowledgement_actors
        (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
    SELECT a.id, a.operation_run_id, $2, a.withdrawn_at, $3, $4, $5
    FROM verification_check_acknowledgements a WHERE a.id = $1";

const NOTED: &str = "
    SELECT acknowledgement_id, operation_run_id, action, at, surface, token_id, name
    FROM verifyd_acknowledgement_actors
    WHERE acknowledgement_id IN (SELECT value FROM json_each($1))";

pub(super) async fn note_acknowledged(
    connection: &mut SqliteConnection,
    id: AcknowledgementId,
    through: &Actor,
) -> Result<(), StoreError> {
    note(connection, NOTE_ACKNOWLEDGED, ACKNOWLEDGED, id, through).await
}

pub(super) async fn note_withdrawn(
    connection: &mut SqliteConnection,
    id: AcknowledgementId,
    through: &Actor,
) -> Result<(), StoreError> {
    note(connection, NOTE_WITHDRAWN, WITHDRAWN, id, through).await
}

async fn note(
    connection: &mut SqliteConnection,
    statement: &'static str,
    action: &'static str,
    id: AcknowledgementId,
    through: &Actor,
) -> Result<(), StoreError> {
    let noted = sqlx::query(statement)
        .bind(id.0)
        .bind(action)
        .bind(through.surface.as_str())
        .bind(through.token_id.map(|id| id.0))
        .bind(&through.name)
        .execute(connection)
        .await;
    Ok(noted.map(|_| ())?)
}

/// Completes what was read of acknowledgements.
pub(super) async fn with_actors(
    connection: &mut SqliteConnection,
    mut all: Vec<Acknowledgement>,
) -> Result<Vec<Acknowledgement>, StoreError> {
    if all.is_empty() {
        return Ok(all);
    }
    let ids: Vec<i64> = all.iter().map(|a| a.id.0).collect();
    let noted: Vec<ActorRow> = sqlx::query_as(NOTED)
        .bind(id_list(&ids))
        .fetch_all(connection)
        .await?;
    attach(&mut all, noted)?;
    Ok(all)
}
