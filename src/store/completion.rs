//! `running` → `completed`, as far as it is the same in both databases: the values that are written into the
//! run's row, and what follows from the completion.

use super::acknowledgements::lapse_acknowledgements;
use super::batching::{BatchedCall, Batching, submit};
use super::claims::answer_of_either;
use super::dialect::{now, own};
use super::sql::both;
use super::sql_store::{InProcess, SqlConnection, SqlStore};
use super::statement::Sql;
use crate::domain::completion::Completion;
use crate::domain::completion_event::{CompletionEvent, WebhookEvent};
use crate::domain::permission::{InventoryRefresh, PermissionDetails};
use crate::domain::{ConnectionId, RunId};
use crate::ports::claims::{Claim, CompletionStore, ContextSize};
use crate::ports::store_error::{Code, Detail, StoreError};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// JSON that is written once and then only copied.
pub(super) type Json = sqlx::types::Json<Box<RawValue>>;

/// Seconds for which an equal digest means equal rows. Later they are compared anyway, so that changes by
/// other writers do not stay.
pub(super) const DIGEST_STANDS_SECONDS: f64 = 3600.0;

/// Largest context, in bytes, that the database is asked to copy; a larger one is replaced by a member that
/// says so.
const MERGED_BYTES: i64 = 16 * 1024 * 1024;

/// No context stays. Both databases' statements have this number.
const NOTHING_KEPT: i64 = -1;

/// Of the context stays what verifyd reads of it.
const OWN_MEMBERS_KEPT: i64 = -2;

/// The members of `context` that only completions write, as a list of names or, in SQLite, paths. What a producer, or an
/// earlier completion, has left there does not stay. `producer_context` is the producer's. `producer_context_dropped`
/// stays: what an earlier completion of the run has dropped is still missing.
macro_rules! own_members {
    (postgres) => {
        "'verification_report', 'reason_code', 'next_steps'"
    };
    (sqlite) => {
        "'$.verification_report', '$.reason_code', '$.next_steps'"
    };
}
pub(super) use own_members;

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
    /// Largest context that stays, in bytes. Of a larger one stays what verifyd reads, unless nothing is to stay.
    pub kept: i64,
    /// Whether the context that stays is not small.
    pub is_large: bool,
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
                ContextSize::Refused => OWN_MEMBERS_KEPT,
            },
            is_large: matches!(
                claim.context,
                ContextSize::Large | ContextSize::Unknown | ContextSize::Refused
            ),
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
}

/// How each database completes a run that no batch has completed. Each part of the call has a limit.
#[async_trait]
pub(super) trait CompleteByItself {
    /// Returns whether it is completed now; if not, another token is the current one.
    async fn complete_by_itself(&self, request: &CompletionRequest) -> Result<bool, StoreError>;
}

#[async_trait]
impl<S> CompletionStore for S
where
    S: SqlStore + Batching + CompleteByItself,
    CompletionRequest: BatchedCall<S, Answer = bool>,
{
    async fn complete(&self, claim: &Claim, completion: &Completion) -> Result<bool, StoreError> {
        let timeout = self.in_process().call_timeout;
        let request = CompletionRequest::new(claim, completion)?;
        if claim.context != ContextSize::Small {
            return self.complete_by_itself(&request).await;
        }
        let by_itself = || async {
            let request = CompletionRequest::new(claim, completion)?;
            self.complete_by_itself(&request).await
        };
        answer_of_either(timeout, submit(self, request), by_itself).await
    }
}

/// For a report that came too late to be the latest.
const DIFFERS: Sql = both!(
    "SELECT fingerprint <> $2 FROM " own!(latest_reports) " WHERE connection_id = $1"
);

const OUTBOX: Sql = both!(
    "INSERT INTO " own!(webhook_deliveries) "
        (endpoint_id, message_id, operation_run_id, payload, pending_since)
     SELECT e.id, $2, $3, $4, " now!() " FROM " own!(webhook_endpoints) " e
     WHERE e.workspace_id = $1 AND e.enabled AND (NOT e.changed_only OR $5)"
);

/// Splits what follows from completed runs into rounds: each row is written once in a round, and by the runs in their
/// order.
pub(super) fn rounds<T>(items: impl Iterator<Item = T>, row: impl Fn(&T) -> i64) -> Vec<Vec<T>> {
    let mut rounds: Vec<Vec<T>> = Vec::new();
    let mut written: HashMap<i64, usize> = HashMap::new();
    for item in items {
        let times = written.entry(row(&item)).or_default();
        match rounds.get_mut(*times) {
            Some(round) => round.push(item),
            None => rounds.push(vec![item]),
        }
        *times += 1;
    }
    rounds
}

/// A completed run, the time of its completion, and whether its workspace has webhooks.
pub(super) type Done<'a> = (&'a CompletionRequest, DateTime<Utc>, bool);

/// Makes the events of completed runs: ends acknowledgements that no longer apply, and records deliveries to
/// webhooks. `written`: the runs whose report was written as the latest one, whether its fingerprint has changed, and
/// whether acknowledgements may have to be ended.
pub(super) async fn conclude(
    tx: &mut dyn SqlConnection,
    done: Vec<Done<'_>>,
    written: Vec<(i64, bool, bool)>,
) -> Result<Completed, StoreError> {
    let written: HashMap<i64, (bool, bool)> = written
        .into_iter()
        .map(|(run, changed, acknowledged)| (run, (changed, acknowledged)))
        .collect();
    let mut completed = Completed::default();
    for (call, at, has_webhooks) in done {
        let mut event = call.event.clone();
        if let Some(connection) = call.connection {
            let row = written.get(&call.run.0).copied();
            event.changed = compare(tx, call, connection, row).await?;
        }
        if has_webhooks {
            let put = OUTBOX
                .bind(event.workspace_id.map(|w| w.0))
                .bind(message_id())
                .bind(event.operation_run_id.0)
                .bind(webhook_event(&event, at)?)
                .bind(event.changed);
            put.execute(tx).await?;
            completed.has_deliveries = true;
        }
        completed.events.push(event);
    }
    Ok(completed)
}

/// Ends acknowledgements that no longer apply, and returns whether the fingerprint differs from that of the
/// connection's previous report.
async fn compare(
    tx: &mut dyn SqlConnection,
    call: &CompletionRequest,
    connection: ConnectionId,
    written: Option<(bool, bool)>,
) -> Result<bool, StoreError> {
    if written.is_none_or(|(_, acknowledged)| acknowledged) {
        lapse_acknowledgements(tx, connection, call.run).await?;
    }
    if let Some((changed, _)) = written {
        return Ok(changed);
    }
    let differs = DIFFERS.bind(connection.0).bind(&call.event.fingerprint);
    let (differs,): (bool,) = differs.fetch_one(tx).await?;
    Ok(differs)
}

/// The result of a transaction that completes runs.
#[derive(Default)]
pub(super) struct Completed {
    /// One for each run.
    pub events: Vec<CompletionEvent>,
    /// Whether deliveries to webhooks were recorded.
    pub has_deliveries: bool,
    /// Whether a trigger of the application has kept or changed a row, so that it lacks its result.
    pub is_altered: bool,
}

impl Completed {
    /// Refuses what a trigger has altered. The transaction is not to be committed then: its attempts have not ended.
    pub fn unaltered(self) -> Result<Self, StoreError> {
        if self.is_altered {
            let why = "a trigger keeps or changes what is written to operation_runs";
            return Err(StoreError::Refused(Detail::new(why, Some(Code::Trigger))));
        }
        Ok(self)
    }

    pub fn contains(&self, run: RunId) -> bool {
        self.events.iter().any(|n| n.operation_run_id == run)
    }

    /// Publishes the events within this process, after the commit.
    pub fn publish(self, process: &InProcess) {
        if self.has_deliveries {
            process.recorded.notify_one();
        }
        for event in self.events {
            // Fails when there is no subscriber.
            let _ = process.completions.send(event);
        }
    }
}

/// Returns the body of a webhook's request.
fn webhook_event(event: &CompletionEvent, at: DateTime<Utc>) -> Result<String, StoreError> {
    serde_json::to_string(&WebhookEvent::completed(event.clone(), at)).map_err(|_| not_json())
}

/// `webhook-id`: the same for every endpoint and every attempt.
fn message_id() -> String {
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
