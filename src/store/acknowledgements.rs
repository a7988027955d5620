//! Acknowledgements as rows, for both databases, and what a completion is compared with.

use super::from_row::from_row;
use crate::domain::acknowledgement::Acknowledgement;
use crate::domain::{AcknowledgementId, RunId};
use crate::ports::store::StoreError;
use chrono::{DateTime, Utc};

from_row! {
    /// `verification_check_acknowledgements`
    #[derive(Debug)]
    pub(super) struct AcknowledgementRow {
        id: i64,
        operation_run_id: i64,
        check_key: String,
        reason_code: Option<String>,
        reason: String,
        acknowledged_by: String,
        acknowledged_at: Option<DateTime<Utc>>,
        expires_at: Option<DateTime<Utc>>,
        withdrawn_at: Option<DateTime<Utc>>,
        withdrawn_by: Option<String>,
    }
}

impl TryFrom<AcknowledgementRow> for Acknowledgement {
    type Error = StoreError;
    fn try_from(row: AcknowledgementRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: AcknowledgementId(row.id),
            operation_run_id: RunId(row.operation_run_id),
            check_key: row.check_key,
            reason_code: row.reason_code,
            reason: row.reason,
            acknowledged_by: row.acknowledged_by,
            acknowledged_at: row.acknowledged_at.ok_or_else(|| StoreError::Corrupt {
                table: "verification_check_acknowledgements",
                column: "acknowledged_at",
                row: row.id.to_string(),
                why: "it is null".into(),
            })?,
            expires_at: row.expires_at,
            withdrawn_at: row.withdrawn_at,
            withdrawn_by: row.withdrawn_by,
        })
    }
}

/// Somebody pruned the run in the meantime, or put it back.
pub(super) fn not_completed(run: RunId) -> StoreError {
    StoreError::Refused(format!(
        "run {run} is not (or no longer) a completed run of type {}",
        crate::domain::run::RUN_TYPE
    ))
}
