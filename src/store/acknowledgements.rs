//! Acknowledgements as rows, for both databases, and their comparison with a completion.

use super::from_row::from_row;
use super::tolerant_decoding::{Text, Time};
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::domain::names::UnknownName;
use crate::domain::{AcknowledgementId, RunId, TokenId};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};

from_row! {
    /// `verification_check_acknowledgements`
    #[derive(Debug)]
    pub(super) struct AcknowledgementRow {
        id: i64,
        operation_run_id: i64,
        check_key: Option<Text>,
        reason_code: Option<Text>,
        reason: Option<Text>,
        acknowledged_by: Option<Text>,
        acknowledged_at: Option<Time>,
        expires_at: Option<Time>,
        withdrawn_at: Option<Time>,
        withdrawn_by: Option<Text>,
    }
}

/// In a table of another application a text may be NULL: it is then empty, and the rest is shown.
impl From<AcknowledgementRow> for Acknowledgement {
    fn from(row: AcknowledgementRow) -> Self {
        let text = |text: Option<Text>| text.map(|text| text.0);
        let needed = |needed: Option<Text>| text(needed).unwrap_or_default();
        let at = row.acknowledged_at.unwrap_or(Time::Unknown);
        Self {
            id: AcknowledgementId(row.id),
            operation_run_id: RunId(row.operation_run_id),
            check_key: needed(row.check_key),
            reason_code: text(row.reason_code),
            reason: needed(row.reason),
            acknowledged_by: needed(row.acknowledged_by),
            acknowledged_through: None,
            acknowledged_at: at.happened(),
            expires_at: row.expires_at.and_then(Time::expiry),
            withdrawn_at: row.withdrawn_at.map(Time::happened),
            withdrawn_by: text(row.withdrawn_by),
            withdrawn_through: None,
        }
    }
}

from_row! {
    /// `acknowledgement_actors`
    #[derive(Debug)]
    pub(super) struct ActorRow {
        acknowledgement_id: i64,
        operation_run_id: i64,
        action: String,
        at: DateTime<Utc>,
        surface: String,
        token_id: Option<i64>,
        name: String,
    }
}

/// What was done with an acknowledgement.
pub(super) const ACKNOWLEDGED: &str = "acknowledged";
pub(super) const WITHDRAWN: &str = "withdrawn";

/// Adds to each acknowledgement the identity through which it was made and withdrawn. Ids may be used again
/// (the table may belong to another application, which empties it), so a recorded identity applies only to
/// the run and the time that it was recorded for.
pub(super) fn attach(all: &mut [Acknowledgement], noted: Vec<ActorRow>) -> Result<(), StoreError> {
    for row in noted {
        let surface = row
            .surface
            .parse()
            .map_err(|e: UnknownName| StoreError::Corrupt {
                table: "acknowledgement_actors",
                column: "surface",
                row: row.acknowledgement_id.to_string(),
                why: e.to_string(),
            })?;
        let actor = Actor {
            surface,
            token_id: row.token_id.map(TokenId),
            name: row.name,
        };
        let of = |a: &&mut Acknowledgement| {
            a.id.0 == row.acknowledgement_id && a.operation_run_id.0 == row.operation_run_id
        };
        for found in all.iter_mut().filter(of) {
            if row.action == ACKNOWLEDGED && found.acknowledged_at == row.at {
                found.acknowledged_through = Some(actor.clone());
            } else if row.action == WITHDRAWN && found.withdrawn_at == Some(row.at) {
                found.withdrawn_through = Some(actor.clone());
            }
        }
    }
    Ok(())
}

/// Somebody pruned the run in the meantime, or put it back.
pub(super) fn not_completed(run: RunId) -> StoreError {
    StoreError::Refused(format!(
        "run {run} is not (or no longer) a completed run of type {}",
        crate::domain::run::RUN_TYPE
    ))
}
