//! A connection and its latest state.

use super::run_item::RunItem;
use crate::domain::connection::ConnectionStatus;
use crate::domain::connection_facts::ExpirySource;
use crate::domain::names::text_enum;
use crate::domain::overview::{ConnectionState, LatestReport, TrendPoint};
use crate::domain::run::{Outcome, RunStatus};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

text_enum! {
    /// How a connection stands, in the words of its latest report.
    pub enum Standing: "state" {
        Ready => "ready",
        NeedsAttention => "needs_attention",
        Blocked => "blocked",
        /// Enabled, and never checked.
        Never => "never",
        /// Nobody wants it checked.
        Disabled => "disabled",
        /// Its row holds what it must not hold.
        Unusable => "unusable",
        /// A report of another writer, with a word that this build does not know.
        Unknown => "unknown",
    }
}

impl Standing {
    /// Of a connection.
    pub fn of(state: &ConnectionState) -> Self {
        match &state.latest_report {
            _ if state.problem.is_some() => Self::Unusable,
            _ if state.connection.status == ConnectionStatus::Disabled => Self::Disabled,
            None => Self::Never,
            Some(report) => Self::of_overall(&report.overall),
        }
    }

    /// Of `summary.overall`, as it was stored.
    pub fn of_overall(overall: &str) -> Self {
        match overall.parse() {
            Ok(known @ (Self::Ready | Self::NeedsAttention | Self::Blocked)) => known,
            _ => Self::Unknown,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::NeedsAttention => "Needs attention",
            Self::Blocked => "Blocked",
            Self::Never => "Never checked",
            Self::Disabled => "Disabled",
            Self::Unusable => "Cannot be used",
            Self::Unknown => "Unknown",
        }
    }
}

/// A connection and its latest state.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Connection)]
pub struct ConnectionView {
    pub provider_connection_id: i64,
    pub workspace_id: i64,
    pub tenant_id: i64,
    pub provider: String,
    pub display_name: Option<String>,
    pub status: ConnectionStatus,
    /// Of an unusable connection: which column of its row holds what it must not hold. An id that is not
    /// there is 0.
    pub problem: Option<String>,
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
    pub cloud: Option<String>,
    pub module: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub updated_at: Option<DateTime<Utc>>,
    /// Null: never checked.
    pub latest_report: Option<LatestReportView>,
    /// A run of it that is queued or running.
    pub active_run_id: Option<i64>,
    /// Name of the directory, as it says itself.
    pub entra_tenant_name: Option<String>,
    /// When the credential expires. Null: never, where there is a source; else it is not known.
    pub credential_expires_at: Option<DateTime<Utc>>,
    /// Where that was found. Null: it is not known.
    pub credential_expiry_source: Option<ExpirySource>,
    /// When a check found it first.
    pub credential_expiry_found_at: Option<DateTime<Utc>>,
    /// Path of the connection.
    pub href: String,
    /// For people: its name, or its number.
    #[serde(skip)]
    pub title: String,
    /// For people.
    #[serde(skip)]
    pub standing: Standing,
}

/// The latest report of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = LatestReport)]
pub struct LatestReportView {
    pub operation_run_id: i64,
    pub fingerprint: String,
    /// `summary.overall` of the report.
    pub overall: String,
    pub outcome: Outcome,
    pub completed_at: DateTime<Utc>,
    /// Path of the report.
    pub href: String,
}

impl From<LatestReport> for LatestReportView {
    fn from(latest: LatestReport) -> Self {
        Self {
            href: format!("{}/report", RunItem::href(latest.operation_run_id)),
            operation_run_id: latest.operation_run_id.0,
            fingerprint: latest.fingerprint,
            overall: latest.overall,
            outcome: latest.outcome,
            completed_at: latest.completed_at,
        }
    }
}

impl From<ConnectionState> for ConnectionView {
    fn from(state: ConnectionState) -> Self {
        let (name, standing) = (state.name(), Standing::of(&state));
        let connection = state.connection;
        Self {
            title: name.unwrap_or_else(|| format!("Connection {}", connection.id)),
            standing,
            provider_connection_id: connection.id.0,
            workspace_id: connection.workspace_id.0,
            tenant_id: connection.tenant_id.0,
            provider: connection.provider,
            display_name: connection.display_name,
            status: connection.status,
            problem: state.problem,
            entra_tenant_id: connection.entra_tenant_id,
            client_id: connection.client_id,
            cloud: connection.cloud,
            module: connection.module,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            latest_report: state.latest_report.map(Into::into),
            active_run_id: state.active_run_id.map(|id| id.0),
            entra_tenant_name: state.facts.entra_tenant_name,
            credential_expires_at: state.facts.credential_expires_at,
            credential_expiry_source: state.facts.credential_expiry_source,
            credential_expiry_found_at: state.facts.credential_expiry_found_at,
            href: format!("/v1/connections/{}", connection.id),
        }
    }
}

/// One of a connection's last runs.
#[derive(Clone, Debug, PartialEq)]
pub struct StripCell {
    pub operation_run_id: i64,
    pub standing: Standing,
    pub completed_at: Option<DateTime<Utc>>,
}

impl StripCell {
    /// The completed runs of a connection among these, oldest first.
    pub fn of_connection(id: i64, trend: &[TrendPoint]) -> Vec<Self> {
        trend
            .iter()
            .filter(|p| p.connection_id.0 == id && p.status == RunStatus::Completed)
            .map(|p| Self {
                operation_run_id: p.operation_run_id.0,
                standing: p
                    .overall
                    .as_deref()
                    .map_or(Standing::Unknown, Standing::of_overall),
                completed_at: p.completed_at,
            })
            .collect()
    }
}
