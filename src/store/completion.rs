//! The values that a completion writes into the run's row: the same JSON for both kinds of database.

use crate::domain::completion::Completion;
use crate::domain::completion_event::{CompletionEvent, WebhookEvent};
use crate::domain::permission::{InventoryRefresh, PermissionDetails};
use crate::domain::{ConnectionId, RunId};
use crate::ports::claims::{Claim, ContextSize};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

/// JSON that is written once and then only copied.
pub(super) type Json = sqlx::types::Json<Box<RawValue>>;

/// Seconds for which an equal digest means equal rows. Later they are compared anyway, so that changes by
/// other writers do not stay.
pub(super) const DIGEST_STANDS_SECONDS: f64 = 3600.0;

/// Largest context, in bytes, that the database is asked to copy; a larger one is replaced by a member that
/// says so.
const MERGED_BYTES: i64 = 16 * 1024 * 1024;

/// No context stays.
pub(super) const NOTHING_KEPT: i64 = -1;

/// The values of a completion, prepared by the caller: only an inventory that has changed is serialised while
/// the transaction is open.
pub(super) struct CompletionRequest {
    pub run: RunId,
    pub attempt: i32,
    pub token: Uuid,
    /// When the attempt was claimed.
    pub claimed_at: DateTime<Utc>,
    pub outcome: &'static str,
    /// Members of `context` that are set; all others stay as they are.
    pub patch: Json,
    pub failures: Json,
    /// Members of `context` that are set only where the producer left them out.
    pub defaults: Json,
    /// Largest context that stays, in bytes.
    pub kept: i64,
    pub inventory: Option<InventoryRow>,
    pub connection: Option<ConnectionId>,
    /// Whether the check found a previous report of the connection.
    pub has_previous: bool,
    /// `changed` is not known yet.
    pub event: CompletionEvent,
}

impl CompletionRequest {
    pub fn new(claim: &Claim, completion: &Completion) -> Result<Self, StoreError> {
        let mut patch: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
        patch.insert("verification_report", completion.report.clone());
        if let Some(blocked) = &completion.blocked {
            patch.insert("reason_code", to_json(blocked.reason_code.code())?.0);
            patch.insert("next_steps", to_json(&blocked.next_steps)?.0);
        }
        Ok(Self {
            run: claim.run.id,
            attempt: claim.attempt,
            token: claim.token,
            claimed_at: claim.claimed_at,
            outcome: completion.outcome.as_str(),
            patch: to_json(&patch)?,
            failures: to_json(&completion.failure_summary)?,
            defaults: match &completion.checked {
                Some(checked) => to_json(checked)?,
                None => to_json(&BTreeMap::<&str, &str>::new())?,
            },
            kept: match claim.context {
                ContextSize::Small | ContextSize::Large => MERGED_BYTES,
                ContextSize::Huge => NOTHING_KEPT,
                ContextSize::Unknown => 32_768,
            },
            inventory: completion
                .inventory
                .as_ref()
                .map(|refresh| InventoryRow::new(claim.run.id, refresh)),
            connection: completion.connection,
            has_previous: claim.start.as_ref().is_some_and(|s| s.latest_run.is_some()),
            event: CompletionEvent {
                operation_run_id: claim.run.id,
                workspace_id: claim.run.workspace_id,
                tenant_id: claim.run.tenant_id,
                provider_connection_id: completion.connection,
                outcome: completion.outcome,
                overall: completion.overall.clone(),
                fingerprint: completion.fingerprint.clone(),
                changed: true,
            },
        })
    }

    /// Returns the keys that no two completions of one transaction may have in common: each row is written by
    /// one of them.
    pub fn keys(&self) -> Vec<(&'static str, i64)> {
        let tenant = self.inventory.as_ref().map(|i| ("tenant", i.tenant));
        let connection = self.connection.map(|c| ("connection", c.0));
        let keys = [Some(("run", self.run.0)), tenant, connection];
        keys.into_iter().flatten().collect()
    }
}

/// The result of a transaction that completes runs.
#[derive(Default)]
pub(super) struct Completed {
    /// One for each run.
    pub events: Vec<CompletionEvent>,
    /// Whether deliveries to webhooks were recorded.
    pub has_deliveries: bool,
}

impl Completed {
    pub fn contains(&self, run: RunId) -> bool {
        self.events.iter().any(|n| n.operation_run_id == run)
    }

    /// Publishes the events within this process, after the commit.
    pub fn publish(self, completions: &broadcast::Sender<CompletionEvent>, recorded: &Notify) {
        if self.has_deliveries {
            recorded.notify_one();
        }
        for event in self.events {
            // Fails when there is no subscriber.
            let _ = completions.send(event);
        }
    }
}

/// Returns the body of a webhook's request.
pub(super) fn webhook_event(
    event: &CompletionEvent,
    at: DateTime<Utc>,
) -> Result<String, StoreError> {
    serde_json::to_string(&WebhookEvent::completed(event.clone(), at)).map_err(|_| not_json())
}

/// `webhook-id`: the same for every endpoint and every attempt.
pub(super) fn message_id() -> String {
    format!("msg_{}", Uuid::now_v7().simple())
}

/// A tenant's inventory: the part that is always written, and the part that is written when it has changed.
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
    StoreError::Refused("the value to store is not valid JSON".into())
}
