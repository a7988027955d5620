//! Rows as they come from either database, and the way from there to the domain.
//!
//! A row that holds what it must not hold is named by table, column and row.

use super::from_row::from_row;
use crate::domain::connection::{ProviderConnection, StoredCredential};
use crate::domain::names::UnknownName;
use crate::domain::permission::StoredPermission;
use crate::domain::{ConnectionId, OperationRun, RunId, TenantId, WorkspaceId};
use crate::ports::store::{
    AttemptRecord, InventoryFreshness, LatestReport, RunCounts, StoreError, WorkerRecord,
};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, FromRow, Row, Type};
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
    text.parse().map_err(|e: UnknownName| StoreError::Corrupt {
        table,
        column,
        row: row.to_string(),
        why: e.to_string(),
    })
}

pub(super) fn count<T: TryFrom<i64>>(
    table: &'static str,
    column: &'static str,
    row: impl Display,
    number: i64,
) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| StoreError::Corrupt {
        table,
        column,
        row: row.to_string(),
        why: format!("{number} is out of range"),
    })
}

/// JSON that another application wrote. The database takes numbers and depths that verifyd cannot
/// read; that must not keep a run from its end, so it counts as null.
#[derive(Debug)]
pub(super) struct Lenient(Value);

impl<DB: Database> Type<DB> for Lenient
where
    Value: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        Value::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        Value::compatible(ty)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for Lenient
where
    Value: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(Value::decode(value).unwrap_or(Value::Null)))
    }
}

from_row! {
    /// `operation_runs`
    #[derive(Debug)]
    pub(super) struct RunRow {
        pub id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        run_type as "type": String,
        status: String,
        outcome: Option<String>,
        context: Option<Lenient>,
        failure_summary: Option<Lenient>,
        created_at: Option<DateTime<Utc>>,
        started_at: Option<DateTime<Utc>>,
        completed_at: Option<DateTime<Utc>>,
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
            status: name("operation_runs", "status", id, &row.status)?,
            outcome: row
                .outcome
                .map(|text| name("operation_runs", "outcome", id, &text))
                .transpose()?,
            context: row.context.map_or(Value::Null, |json| json.0),
            failure_summary: row
                .failure_summary
                .map_or_else(|| Value::Array(vec![]), |json| json.0),
            created_at: row.created_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
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
            end_reason: row
                .end_reason
                .map(|text| name("run_attempts", "end_reason", &key, &text))
                .transpose()?,
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
        beat_at: DateTime<Utc>,
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
            beat_at: row.beat_at,
        })
    }
}

from_row! {
    /// Counts over `operation_runs`
    #[derive(Debug)]
    pub(super) struct CountsRow {
        queued: i64,
        running: i64,
        oldest_queued_seconds: Option<f64>,
    }
}

impl From<CountsRow> for RunCounts {
    fn from(row: CountsRow) -> Self {
        Self {
            queued: row.queued.unsigned_abs(),
            running: row.running.unsigned_abs(),
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
        workspace_id: i64,
        tenant_id: i64,
        provider: String,
        display_name: Option<String>,
        status: String,
        entra_tenant_id: Option<String>,
        client_id: Option<String>,
        cloud: Option<String>,
        module: Option<String>,
        created_at: Option<DateTime<Utc>>,
        updated_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<ConnectionRow> for ProviderConnection {
    type Error = StoreError;
    fn try_from(row: ConnectionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: ConnectionId(row.id),
            workspace_id: WorkspaceId(row.workspace_id),
            tenant_id: TenantId(row.tenant_id),
            provider: row.provider,
            display_name: row.display_name,
            status: name("provider_connections", "status", row.id, &row.status)?,
            entra_tenant_id: row.entra_tenant_id,
            client_id: row.client_id,
            cloud: row.cloud,
            module: row.module,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// `provider_connections` with the credential of each, all null where it has none.
#[derive(Debug)]
pub(super) struct ConnectionWithCredentialRow {
    connection: ConnectionRow,
    credential: CredentialPart,
}

from_row! {
    #[derive(Debug)]
    struct CredentialPart {
        credential_kind: Option<String>,
        credential_payload: Option<String>,
        credential_expires_at: Option<DateTime<Utc>>,
        credential_updated_at: Option<DateTime<Utc>>,
    }
}

impl<'r, R: Row> FromRow<'r, R> for ConnectionWithCredentialRow
where
    ConnectionRow: FromRow<'r, R>,
    CredentialPart: FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self {
            connection: ConnectionRow::from_row(row)?,
            credential: CredentialPart::from_row(row)?,
        })
    }
}

impl TryFrom<ConnectionWithCredentialRow> for (ProviderConnection, Option<StoredCredential>) {
    type Error = StoreError;
    fn try_from(row: ConnectionWithCredentialRow) -> Result<Self, StoreError> {
        let id = row.connection.id;
        let part = row.credential;
        let credential = match (part.credential_kind, part.credential_payload) {
            (Some(kind), Some(payload)) => Some(StoredCredential {
                connection_id: ConnectionId(id),
                kind: name("provider_credentials", "kind", id, &kind)?,
                payload,
                expires_at: part.credential_expires_at,
                updated_at: part.credential_updated_at,
            }),
            _ => None,
        };
        Ok((row.connection.try_into()?, credential))
    }
}

from_row! {
    /// `tenant_permissions`
    #[derive(Debug)]
    pub(super) struct PermissionRow {
        tenant_id: i64,
        permission_key: String,
        status: String,
        details: Option<Value>,
        last_checked_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<PermissionRow> for StoredPermission {
    type Error = StoreError;
    fn try_from(row: PermissionRow) -> Result<Self, StoreError> {
        let key = format!("({}, {})", row.tenant_id, row.permission_key);
        Ok(Self {
            status: name("tenant_permissions", "status", key, &row.status)?,
            tenant_id: TenantId(row.tenant_id),
            permission_key: row.permission_key,
            details: row.details.unwrap_or(Value::Null),
            last_checked_at: row.last_checked_at,
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

/// Connections that have a credential.
pub(super) fn with_credentials(
    rows: Vec<ConnectionWithCredentialRow>,
) -> Result<Vec<(ProviderConnection, StoredCredential)>, StoreError> {
    let pairs: Vec<(ProviderConnection, Option<StoredCredential>)> = all(rows)?;
    Ok(pairs
        .into_iter()
        .filter_map(|(connection, credential)| Some((connection, credential?)))
        .collect())
}
