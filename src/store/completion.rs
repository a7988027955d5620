//! What a completion writes into the run's row: the same JSON for both kinds of database.

use crate::domain::completion::Completion;
use crate::domain::notice::{Event, Notice};
use crate::domain::permission::{InventoryEntry, InventoryRefresh};
use crate::ports::store::{Claim, StoreError};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The members that are put into `context`; all others stay as they are.
pub(super) fn context_patch(completion: &Completion) -> Result<Map<String, Value>, StoreError> {
    let mut patch = Map::new();
    patch.insert("verification_report".into(), completion.report.clone());
    if let Some(blocked) = &completion.blocked {
        patch.insert("reason_code".into(), json!(blocked.reason_code.code()));
        patch.insert("next_steps".into(), to_json(&blocked.next_steps)?);
    }
    Ok(patch)
}

/// `failure_summary`
pub(super) fn failure_summary(completion: &Completion) -> Result<Value, StoreError> {
    to_json(&completion.failure_summary)
}

/// What is told of the completion.
pub(super) fn notice(claim: &Claim, completion: &Completion, changed: bool) -> Notice {
    Notice {
        operation_run_id: claim.run.id,
        workspace_id: claim.run.workspace_id,
        tenant_id: claim.run.tenant_id,
        provider_connection_id: completion.connection,
        outcome: completion.outcome,
        overall: completion.overall.clone(),
        fingerprint: completion.fingerprint.clone(),
        changed,
    }
}

/// The body of a webhook's request.
pub(super) fn event(notice: &Notice, at: DateTime<Utc>) -> Result<String, StoreError> {
    serde_json::to_string(&Event::completed(notice.clone(), at)).map_err(|_| not_json())
}

/// `webhook-id`: the same for every endpoint and every attempt.
pub(super) fn message_id() -> String {
    format!("msg_{}", Uuid::now_v7().simple())
}

/// The inventory as a JSON array of `permission_key`, `status` and `details`.
pub(super) fn inventory_entries(refresh: &InventoryRefresh) -> Result<Value, StoreError> {
    refresh
        .entries
        .iter()
        .map(|(key, entry)| {
            Ok(json!({
                "permission_key": key,
                "status": entry.status.as_str(),
                "details": inventory_details(entry)?,
            }))
        })
        .collect()
}

/// `tenant_permissions.details`
pub(super) fn inventory_details(entry: &InventoryEntry) -> Result<Map<String, Value>, StoreError> {
    match to_json(&entry.details)? {
        Value::Object(details) => Ok(details),
        _ => Err(not_json()),
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|_| not_json())
}

fn not_json() -> StoreError {
    StoreError::Refused("what is to be stored is not JSON of the expected kind".into())
}
