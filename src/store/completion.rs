//! What a completion writes into the run's row: the same JSON for both kinds of database.

use crate::domain::RunId;
use crate::domain::completion::Completion;
use crate::domain::completion_event::{CompletionEvent, WebhookEvent};
use crate::domain::permission::{InventoryRefresh, PermissionDetails};
use crate::ports::store::{Claim, ContextSize, StoreError};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// JSON that is written once and then only copied.
pub(super) type Json = sqlx::types::Json<Box<RawValue>>;

/// How long a digest stands for the rows: after that they are compared anyway, so that what another
/// writer has done to them does not stay for ever. Seconds.
pub(super) const DIGEST_STANDS_SECONDS: f64 = 3600.0;

/// The members that are put into `context`; all others stay as they are.
pub(super) fn context_members(
    completion: &Completion,
) -> Result<Vec<(&'static str, Json)>, StoreError> {
    let report = sqlx::types::Json(completion.report.clone());
    let mut members = vec![("verification_report", report)];
    if let Some(blocked) = &completion.blocked {
        members.push(("reason_code", to_json(blocked.reason_code.code())?));
        members.push(("next_steps", to_json(&blocked.next_steps)?));
    }
    Ok(members)
}

/// Members that are put into `context` only where the producer left them out.
pub(super) fn context_defaults(completion: &Completion) -> Result<Json, StoreError> {
    match &completion.checked {
        Some(checked) => to_json(checked),
        None => to_json(&BTreeMap::<&str, &str>::new()),
    }
}

/// Most bytes of a context that stays; one that is larger is replaced by a member that says so.
/// `merged`: the most that the database can be asked to copy.
pub(super) fn kept_bytes(size: ContextSize, merged: i64) -> i64 {
    match size {
        ContextSize::Small | ContextSize::Large => merged,
        ContextSize::Huge => NOTHING_KEPT,
        ContextSize::Unknown => 32_768,
    }
}

/// No context stays.
pub(super) const NOTHING_KEPT: i64 = -1;

/// The same as one object.
pub(super) fn context_patch(completion: &Completion) -> Result<Json, StoreError> {
    let members = context_members(completion)?;
    let object: BTreeMap<_, _> = members.iter().map(|(name, json)| (name, &json.0)).collect();
    to_json(&object)
}

/// `failure_summary`
pub(super) fn failure_summary(completion: &Completion) -> Result<Json, StoreError> {
    to_json(&completion.failure_summary)
}

/// What is told of the completion.
pub(super) fn notice(claim: &Claim, completion: &Completion, changed: bool) -> CompletionEvent {
    CompletionEvent {
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
pub(super) fn event(notice: &CompletionEvent, at: DateTime<Utc>) -> Result<String, StoreError> {
    serde_json::to_string(&WebhookEvent::completed(notice.clone(), at)).map_err(|_| not_json())
}

/// `webhook-id`: the same for every endpoint and every attempt.
pub(super) fn message_id() -> String {
    format!("msg_{}", Uuid::now_v7().simple())
}

/// A tenant's inventory: what is always written, and what only when it has changed.
#[derive(Debug)]
pub(super) struct InventoryRow {
    pub tenant: i64,
    pub run: i64,
    pub source: &'static str,
    refresh: Arc<InventoryRefresh>,
}

#[derive(Serialize)]
struct EntryJson<'a> {
    permission_key: &'a str,
    status: &'a str,
    details: &'a PermissionDetails,
}

impl InventoryRow {
    pub fn new(run: RunId, refresh: &Arc<InventoryRefresh>) -> Self {
        Self {
            tenant: refresh.tenant_id.0,
            run: run.0,
            source: refresh.source.as_str(),
            refresh: Arc::clone(refresh),
        }
    }

    /// Of the entries: while it stays the same, so do the rows.
    pub fn digest(&self) -> &str {
        self.refresh.entries.digest()
    }

    /// A JSON array of `permission_key`, `status` and `details`, in the order of the keys.
    pub fn entries(&self) -> Result<Json, StoreError> {
        let entries: Vec<EntryJson<'_>> = self
            .refresh
            .entries
            .iter()
            .map(|(key, entry)| EntryJson {
                permission_key: key,
                status: entry.status.as_str(),
                details: &entry.details,
            })
            .collect();
        to_json(&entries)
    }
}

fn to_json(value: &(impl Serialize + ?Sized)) -> Result<Json, StoreError> {
    to_raw_value(value)
        .map(sqlx::types::Json)
        .map_err(|_| not_json())
}

fn not_json() -> StoreError {
    StoreError::Refused("what is to be stored is not JSON of the expected kind".into())
}
