//! Rows of either database, and their conversion to the domain.
//!
//! A row with an invalid value is named by table, column and row.

use super::from_row::from_row;
use super::tolerant_decoding::{AsWritten, Text, Time, Tolerant};
use crate::domain::attempt::AttemptRecord;
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, ProviderConnection, StoredCredential,
};
use crate::domain::connection_facts::RecordedExpiry;
use crate::domain::json::Json;
use crate::domain::link::is_guid;
use crate::domain::names::UnknownName;
use crate::domain::overview::LatestReport;
use crate::domain::permission::StoredPermission;
use crate::domain::report::redact;
use crate::domain::{ConnectionId, OperationRun, RunId, TenantId, WorkspaceId};
use crate::ports::credentials::FoundCredential;
use crate::ports::inventory::InventoryFreshness;
use crate::ports::runs::RunCounts;
use crate::ports::store_error::StoreError;
use crate::ports::workers::WorkerRecord;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::fmt::Display;
use std::str::FromStr;

pub(super) fn name<T>(
    table: &'static str,
    column: &'static str,
    row: impl Display,
    text: &str,
) -> Result<T, StoreError>
where
    T: FromStr<Err = UnknownName>,
{
    text.parse()
        .map_err(|e: UnknownName| StoreError::corrupt(table, column, row, e))
}

/// The same for a column that may be NULL.
pub(super) fn optional_name<T>(
    table: &'static str,
    column: &'static str,
    row: impl Display,
    text: &Option<impl AsRef<str>>,
) -> Result<Option<T>, StoreError>
where
    T: FromStr<Err = UnknownName>,
{
    text.as_ref()
        .map(|text| name(table, column, row, text.as_ref()))
        .transpose()
}

pub(super) fn count<T: TryFrom<i64>>(
    table: &'static str,
    column: &'static str,
    row: impl Display,
    number: i64,
) -> Result<T, StoreError> {
    let why = || format!("{number} is out of range");
    T::try_from(number).map_err(|_| StoreError::corrupt(table, column, row, why()))
}

/// The same for a column that may be NULL.
pub(super) fn optional_count<T: TryFrom<i64>>(
    table: &'static str,
    column: &'static str,
    row: impl Display,
    number: Option<i64>,
) -> Result<Option<T>, StoreError> {
    number
        .map(|number| count(table, column, row, number))
        .transpose()
}

/// Largest stored credential that is read, in bytes.
pub(super) const PAYLOAD_BYTES: i64 = 262_144;

/// Largest report that is read from a context that is too large as a whole, in bytes.
pub(super) const REPORT_BYTES: i64 = 1_048_576;

/// A value that must not be NULL, in a table where another application may allow it.
pub(super) fn there<T>(
    value: Option<T>,
    table: &'static str,
    column: &'static str,
    row: impl Display,
) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::corrupt(table, column, row, "it is NULL"))
}

from_row! {
    /// `operation_runs`, the context and the failures as far as they are not too large.
    #[derive(Debug)]
    pub(super) struct RunRow {
        pub id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        run_type as "type": String,
        status: Text,
        outcome: Option<Text>,
        context: Option<AsWritten>,
        failure_summary: Option<AsWritten>,
        created_at: Option<Time>,
        started_at: Option<Time>,
        completed_at: Option<Time>,
        shares_id: bool,
        repeats_report: bool,
    }
}

impl TryFrom<RunRow> for OperationRun {
    type Error = StoreError;
    fn try_from(row: RunRow) -> Result<Self, StoreError> {
        let id = row.id;
        Ok(Self {
            id: RunId(id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            run_type: row.run_type,
            status: name("operation_runs", "status", id, &row.status.0)?,
            outcome: optional_name("operation_runs", "outcome", id, &row.outcome)?,
            context: row.context.map(|json| json.0).unwrap_or_default(),
            failure_summary: row
                .failure_summary
                .map_or_else(|| Json::of("[]"), |json| json.0),
            created_at: row.created_at.and_then(Time::known),
            started_at: row.started_at.and_then(Time::known),
            completed_at: row.completed_at.and_then(Time::known),
            shares_id: row.shares_id,
            repeats_report: row.repeats_report,
        })
    }
}

from_row! {
    /// `run_attempts`
    #[derive(Debug)]
    pub(super) struct AttemptRow {
        run_id: i64,
        attempt: i32,
        worker_id: String,
        counted: bool,
        claimed_at: DateTime<Utc>,
        ended_at: Option<DateTime<Utc>>,
        end_reason: Option<String>,
        result_refusal: Option<String>,
        requeue_refusal: Option<String>,
    }
}

impl TryFrom<AttemptRow> for AttemptRecord {
    type Error = StoreError;
    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        let key = format!("({}, {})", row.run_id, row.attempt);
        Ok(Self {
            attempt: row.attempt,
            worker_id: row.worker_id,
            counted: row.counted,
            claimed_at: row.claimed_at,
            ended_at: row.ended_at,
            end_reason: optional_name("run_attempts", "end_reason", key, &row.end_reason)?,
            result_refusal: row.result_refusal,
            requeue_refusal: row.requeue_refusal,
        })
    }
}

from_row! {
    /// `workers`
    #[derive(Debug)]
    pub(super) struct WorkerRow {
        worker_id: String,
        version: String,
        concurrency: i64,
        in_flight: i64,
        started_at: DateTime<Utc>,
        last_heartbeat_at: DateTime<Utc>,
    }
}

impl TryFrom<WorkerRow> for WorkerRecord {
    type Error = StoreError;
    fn try_from(row: WorkerRow) -> Result<Self, StoreError> {
        Ok(Self {
            concurrency: count("workers", "concurrency", &row.worker_id, row.concurrency)?,
            in_flight: count("workers", "in_flight", &row.worker_id, row.in_flight)?,
            worker_id: row.worker_id,
            version: row.version,
            started_at: row.started_at,
            last_heartbeat_at: row.last_heartbeat_at,
        })
    }
}

from_row! {
    /// Counts over `operation_runs`
    #[derive(Debug)]
    pub(super) struct CountsRow {
        queued: i64,
        running: i64,
        not_due: i64,
        oldest_queued_seconds: Option<f64>,
    }
}

impl From<CountsRow> for RunCounts {
    fn from(row: CountsRow) -> Self {
        Self {
            queued: row.queued.unsigned_abs(),
            running: row.running.unsigned_abs(),
            not_due: row.not_due.unsigned_abs(),
            // The age is negative where the application's clock is ahead of the database's.
            oldest_queued_seconds: row.oldest_queued_seconds.map(|s| s.max(0.0)),
        }
    }
}

from_row! {
    /// `latest_reports`
    #[derive(Debug)]
    pub(super) struct LatestReportRow {
        connection_id: i64,
        operation_run_id: i64,
        fingerprint: String,
        overall: String,
        outcome: String,
        completed_at: DateTime<Utc>,
    }
}

impl TryFrom<LatestReportRow> for LatestReport {
    type Error = StoreError;
    fn try_from(row: LatestReportRow) -> Result<Self, StoreError> {
        Ok(Self {
            operation_run_id: RunId(row.operation_run_id),
            fingerprint: row.fingerprint,
            overall: row.overall,
            outcome: name("latest_reports", "outcome", row.connection_id, &row.outcome)?,
            completed_at: row.completed_at,
        })
    }
}

from_row! {
    /// `provider_connections`
    #[derive(Debug)]
    pub(super) struct ConnectionRow {
        pub id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        provider: Option<Text>,
        display_name: Option<Text>,
        status: Option<Text>,
        entra_tenant_id: Option<Text>,
        client_id: Option<Text>,
        cloud: Option<Text>,
        module: Option<Text>,
        created_at: Option<Time>,
        updated_at: Option<Time>,
    }
}

impl ConnectionRow {
    /// Returns the column with an invalid value, and why it is invalid.
    fn problem(&self) -> Option<(&'static str, String)> {
        let null = || "it is NULL".to_owned();
        if self.id < 1 {
            return Some(("id", format!("it is {}, allowed: from 1", self.id)));
        }
        match &self.status {
            None => return Some(("status", null())),
            Some(status) if ConnectionStatus::stored(&status.0).is_none() => {
                let found = redact::clean(&status.0, 60);
                let allowed = ConnectionStatus::STORED;
                return Some(("status", format!("status is {found:?}, allowed: {allowed}")));
            }
            Some(_) => {}
        }
        let missing = [
            ("workspace_id", self.workspace_id.is_none()),
            ("tenant_id", self.tenant_id.is_none()),
            ("provider", self.provider.is_none()),
        ];
        let (column, _) = missing.into_iter().find(|(_, missing)| *missing)?;
        Some((column, null()))
    }

    /// Why no check of an enabled connection can pass preflight, though its row can be read: see `is_valid_connection!`.
    fn obstacle(&self) -> Option<(&'static str, String)> {
        let is_disabled = self.status.as_ref().is_some_and(|status| {
            ConnectionStatus::stored(&status.0) == Some(ConnectionStatus::Disabled)
        });
        let found = match &self.entra_tenant_id {
            _ if is_disabled => return None,
            Some(id) if is_guid(&id.0) => return None,
            Some(id) => format!("{:?}", redact::clean(&id.0, 60)),
            None => "NULL".to_owned(),
        };
        let why = format!("it is {found}, allowed: a GUID, the directory to check");
        Some(("entra_tenant_id", why))
    }

    /// For lists: as much of it as can be read, and why it cannot be checked. An id that is not there is 0,
    /// a provider an empty text.
    pub fn listed(self) -> (ProviderConnection, Option<String>) {
        let problem = self
            .problem()
            .or_else(|| self.obstacle())
            .map(|(column, why)| format!("provider_connections.{column}: {why}"));
        let text = |text: Option<Text>| text.map(|text| text.0);
        let id = |id: Option<i64>| id.unwrap_or_default();
        let status = match (&problem, &self.status) {
            (None, Some(status)) => ConnectionStatus::stored(&status.0),
            _ => None,
        };
        let connection = ProviderConnection {
            id: ConnectionId(self.id),
            workspace_id: WorkspaceId(id(self.workspace_id)),
            tenant_id: TenantId(id(self.tenant_id)),
            provider: text(self.provider).unwrap_or_default(),
            display_name: text(self.display_name),
            status: status.unwrap_or(ConnectionStatus::Unusable),
            entra_tenant_id: text(self.entra_tenant_id),
            client_id: text(self.client_id),
            cloud: text(self.cloud),
            module: text(self.module),
            created_at: self.created_at.and_then(Time::known),
            updated_at: self.updated_at.and_then(Time::known),
        };
        (connection, problem)
    }

    /// Returns what its credential is bound to.
    fn binding(&self) -> Result<CredentialBinding, StoreError> {
        const TABLE: &str = "provider_connections";
        Ok(CredentialBinding {
            workspace_id: WorkspaceId(there(self.workspace_id, TABLE, "workspace_id", self.id)?),
            tenant_id: TenantId(there(self.tenant_id, TABLE, "tenant_id", self.id)?),
            connection_id: ConnectionId(self.id),
        })
    }

    /// Its tenant, if it names one.
    pub fn tenant(&self) -> Option<i64> {
        self.tenant_id
    }
}

impl TryFrom<ConnectionRow> for ProviderConnection {
    type Error = StoreError;
    fn try_from(row: ConnectionRow) -> Result<Self, StoreError> {
        match row.problem() {
            Some((column, why)) => {
                let table = "provider_connections";
                Err(StoreError::corrupt(table, column, row.id, why))
            }
            None => Ok(row.listed().0),
        }
    }
}

from_row! {
    /// `provider_connections` with the credential of each, all NULL where it has none.
    #[derive(Debug)]
    pub(super) struct ConnectionWithCredentialRow {
        ; connection: ConnectionRow,
        credential: CredentialPart
    }
}

from_row! {
    #[derive(Debug)]
    struct CredentialPart {
        credential_id: Option<i64>,
        credential_kind: Option<Text>,
        credential_payload: Option<Text>,
        credential_bytes: Option<i64>,
        credential_expires_at: Option<Time>,
        credential_updated_at: Option<Time>,
    }
}

impl CredentialPart {
    /// None: there is no such row.
    fn read(self, connection: i64) -> Result<Option<StoredCredential>, StoreError> {
        const TABLE: &str = "provider_credentials";
        if self.credential_id.is_none() {
            return Ok(None);
        }
        let kind = there(self.credential_kind, TABLE, "kind", connection)?;
        let payload = match (self.credential_payload, self.credential_bytes) {
            (None, Some(bytes)) => {
                let why = format!("{bytes} bytes, allowed: at most {PAYLOAD_BYTES}");
                return Err(StoreError::corrupt(TABLE, "payload", connection, why));
            }
            (payload, _) => there(payload, TABLE, "payload", connection)?,
        };
        Ok(Some(StoredCredential {
            connection_id: ConnectionId(connection),
            kind: name(TABLE, "kind", connection, &kind.0)?,
            payload: payload.0,
            expiry: recorded_expiry(self.credential_expires_at),
            updated_at: self.credential_updated_at.and_then(Time::known),
        }))
    }
}

/// Returns the expiry that is recorded with a credential.
pub(super) fn recorded_expiry(at: Option<Time>) -> RecordedExpiry {
    match at {
        None => RecordedExpiry::Absent,
        Some(Time::At(at)) => RecordedExpiry::At(at),
        Some(Time::After) => RecordedExpiry::Never,
        Some(Time::Before | Time::Unknown) => RecordedExpiry::Invalid,
    }
}

impl TryFrom<ConnectionWithCredentialRow> for (ProviderConnection, Option<StoredCredential>) {
    type Error = StoreError;
    fn try_from(row: ConnectionWithCredentialRow) -> Result<Self, StoreError> {
        let id = row.connection.id;
        Ok((row.connection.try_into()?, row.credential.read(id)?))
    }
}

from_row! {
    /// `tenant_permissions`
    #[derive(Debug)]
    pub(super) struct PermissionRow {
        tenant_id: i64,
        permission_key: Text,
        status: Text,
        details: Option<Tolerant>,
        last_checked_at: Option<Time>,
    }
}

impl TryFrom<PermissionRow> for StoredPermission {
    type Error = StoreError;
    fn try_from(row: PermissionRow) -> Result<Self, StoreError> {
        let key = format!("({}, {})", row.tenant_id, row.permission_key.0);
        Ok(Self {
            status: name("tenant_permissions", "status", key, &row.status.0)?,
            tenant_id: TenantId(row.tenant_id),
            permission_key: row.permission_key.0,
            details: row.details.map_or(Value::Null, |json| json.0),
            last_checked_at: row.last_checked_at.and_then(Time::known),
        })
    }
}

from_row! {
    /// `tenant_inventory`
    #[derive(Debug)]
    pub(super) struct FreshnessRow {
        tenant_id: i64,
        operation_run_id: i64,
        refreshed_at: DateTime<Utc>,
        source: String,
    }
}

impl From<FreshnessRow> for InventoryFreshness {
    fn from(row: FreshnessRow) -> Self {
        Self {
            tenant_id: TenantId(row.tenant_id),
            operation_run_id: RunId(row.operation_run_id),
            refreshed_at: row.refreshed_at,
            source: row.source,
        }
    }
}

/// Converts all rows, or fails at the first that cannot be.
pub(super) fn all<R, T>(rows: Vec<R>) -> Result<Vec<T>, StoreError>
where
    T: TryFrom<R, Error = StoreError>,
{
    rows.into_iter().map(T::try_from).collect()
}

/// Converts the rows that can be: by another collation a database takes more texts for a name than are one.
pub(super) fn readable<R, T>(rows: Vec<R>) -> Vec<T>
where
    T: TryFrom<R>,
{
    let rows = rows.into_iter();
    rows.filter_map(|row| T::try_from(row).ok()).collect()
}

/// Credentials with what each is bound to. One that cannot be read is an error of its own.
pub(super) fn credentials(rows: Vec<ConnectionWithCredentialRow>) -> Vec<FoundCredential> {
    let read = |connection: &ConnectionRow, credential: CredentialPart| {
        let stored = credential.read(connection.id)?;
        let binding = connection.binding()?;
        Ok(stored.map(|stored| (binding, stored)))
    };
    rows.into_iter()
        .filter_map(|row| {
            let credential = read(&row.connection, row.credential).transpose()?;
            let (connection, _) = row.connection.listed();
            Some(FoundCredential {
                connection,
                credential,
            })
        })
        .collect()
}
