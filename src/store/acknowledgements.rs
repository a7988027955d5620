//! Acknowledgements as rows, for both databases, and what a completion is compared with.

use super::from_row::from_row;
use super::lenient::{Text, Time};
use super::rows::there;
use crate::domain::acknowledgement::Acknowledgement;
use crate::domain::{AcknowledgementId, RunId};
use crate::ports::store::StoreError;

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

impl TryFrom<AcknowledgementRow> for Acknowledgement {
    type Error = StoreError;
    fn try_from(row: AcknowledgementRow) -> Result<Self, StoreError> {
        const TABLE: &str = "verification_check_acknowledgements";
        let id = row.id;
        let text = |text: Option<Text>| text.map(|text| text.0);
        Ok(Self {
            id: AcknowledgementId(id),
            operation_run_id: RunId(row.operation_run_id),
            check_key: there(row.check_key, TABLE, "check_key", id)?.0,
            reason_code: text(row.reason_code),
            reason: there(row.reason, TABLE, "reason", id)?.0,
            acknowledged_by: there(row.acknowledged_by, TABLE, "acknowledged_by", id)?.0,
            acknowledged_at: there(row.acknowledged_at, TABLE, "acknowledged_at", id)?.happened(),
            expires_at: row.expires_at.and_then(Time::expiry),
            withdrawn_at: row.withdrawn_at.map(Time::happened),
            withdrawn_by: text(row.withdrawn_by),
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
