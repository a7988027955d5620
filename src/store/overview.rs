//! The reads over many rows that both databases share.

use super::from_row::from_row;
use super::rows::{ConnectionRow, name};
use super::starting_point::FactsPart;
use super::tolerant_decoding::{Text, Time};
use crate::domain::overview::{
    CompletedRun, ConnectionCounts, ConnectionState, History, KnownFacts, LatestReport, TrendPoint,
    WaitingRun,
};
use crate::domain::{ConnectionId, Outcome, RunId, TenantId, WorkspaceId};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Largest number of active runs that are looked through for those of the connections on a page.
pub(super) const ACTIVE_RUNS: i64 = 10_000;

/// Largest number of rows that are read for one run, in a table that may contain other runs.
const ROWS_PER_RUN: i64 = 20;

from_row! {
    /// A connection, its latest report, all NULL where there is none, and its active run.
    #[derive(Debug)]
    pub(super) struct StateRow {
        latest_run_id: Option<i64>,
        latest_fingerprint: Option<String>,
        latest_overall: Option<String>,
        latest_outcome: Option<String>,
        latest_completed_at: Option<DateTime<Utc>>,
        active_run_id: Option<i64>,
        recorded_expires_at: Option<Time>;
        connection: ConnectionRow,
        facts: FactsPart
    }
}

impl TryFrom<StateRow> for ConnectionState {
    type Error = StoreError;
    fn try_from(row: StateRow) -> Result<Self, StoreError> {
        let id = row.connection.id;
        let latest_report = match (
            row.latest_run_id,
            row.latest_fingerprint,
            row.latest_overall,
            row.latest_outcome,
            row.latest_completed_at,
        ) {
            (Some(run), Some(fingerprint), Some(overall), Some(outcome), Some(completed_at)) => {
                Some(LatestReport {
                    operation_run_id: RunId(run),
                    fingerprint,
                    overall,
                    outcome: name("latest_reports", "outcome", id, &outcome)?,
                    completed_at,
                })
            }
            _ => None,
        };
        let (connection, problem) = row.connection.listed();
        let recorded = row.recorded_expires_at.and_then(Time::known);
        let listed_expiry = match row.facts.facts_expiry_source {
            Some(_) => row.facts.facts_credential_expires_at,
            None => recorded,
        };
        let kept = row.facts.kept(connection.id)?;
        Ok(Self {
            facts: KnownFacts::of(&connection, kept).or_recorded(recorded),
            connection,
            problem,
            latest_report,
            active_run_id: row.active_run_id.map(RunId),
            listed_expiry,
        })
    }
}

from_row! {
    #[derive(Debug)]
    pub(super) struct ConnectionCountsRow {
        total: i64,
        disabled: i64,
        unusable: i64,
        ready: i64,
        needs_attention: i64,
        blocked: i64,
        failed: i64,
        never_checked: i64,
    }
}

impl From<ConnectionCountsRow> for ConnectionCounts {
    fn from(row: ConnectionCountsRow) -> Self {
        Self {
            total: row.total.unsigned_abs(),
            disabled: row.disabled.unsigned_abs(),
            unusable: row.unusable.unsigned_abs(),
            ready: row.ready.unsigned_abs(),
            needs_attention: row.needs_attention.unsigned_abs(),
            blocked: row.blocked.unsigned_abs(),
            failed: row.failed.unsigned_abs(),
            never_checked: row.never_checked.unsigned_abs(),
        }
    }
}

from_row! {
    #[derive(Debug)]
    pub(super) struct TrendRow {
        connection_id: i64,
        operation_run_id: i64,
        status: Text,
        outcome: Option<Text>,
        overall: Option<Text>,
        completed_at: Option<Time>,
    }
}

impl TryFrom<TrendRow> for TrendPoint {
    type Error = StoreError;
    fn try_from(row: TrendRow) -> Result<Self, StoreError> {
        let id = row.operation_run_id;
        Ok(Self {
            connection_id: ConnectionId(row.connection_id),
            operation_run_id: RunId(id),
            status: name("operation_runs", "status", id, &row.status.0)?,
            outcome: row
                .outcome
                .map(|text| name("operation_runs", "outcome", id, &text.0))
                .transpose()?,
            overall: row.overall.map(|text| text.0),
            completed_at: row.completed_at.and_then(Time::known),
        })
    }
}

from_row! {
    /// The database's time, and where its table of runs ends.
    #[derive(Debug)]
    pub(super) struct EndRow {
        pub now: DateTime<Utc>,
        newest: Option<i64>,
    }
}

impl EndRow {
    /// Only runs above this id are looked at.
    pub fn floor(&self, most: u32) -> i64 {
        self.newest
            .unwrap_or(0)
            .saturating_sub(i64::from(most).saturating_mul(ROWS_PER_RUN))
            .max(0)
    }
}

from_row! {
    #[derive(Debug)]
    pub(super) struct CompletedRow {
        outcome: Option<Text>,
        created_at: Option<Time>,
        completed_at: Option<Time>,
    }
}

/// A history of rows that were read newest first. `below` is when the last row was recorded that is
/// too old to be looked at, if there is one.
pub(super) fn history(
    rows: Vec<CompletedRow>,
    below: Option<Time>,
    now: DateTime<Utc>,
    period: Duration,
    slices: u32,
    most: u32,
) -> History {
    let from = now - period;
    let oldest = rows.last().and_then(|row| row.created_at?.known());
    let below = below.and_then(Time::known);
    let full = rows.len() >= most as usize;
    let truncated =
        (full && oldest.is_some_and(|at| at > from)) || below.is_some_and(|at| at > from);
    // A row that another writer completed with an unknown outcome is not counted here; lists name it.
    let runs: Vec<CompletedRun> = rows
        .into_iter()
        .filter_map(|row| {
            Some(CompletedRun {
                outcome: row.outcome?.0.parse::<Outcome>().ok()?,
                created_at: row.created_at.and_then(Time::known),
                completed_at: row.completed_at?.known()?,
            })
        })
        // A column without fractions of a second rounds up: that is now, too.
        .filter(|run| run.completed_at <= now + Duration::from_secs(1))
        .collect();
    History::of(&runs, now, period, slices, truncated)
}

from_row! {
    #[derive(Debug)]
    pub(super) struct WaitingRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        waiting_seconds: Option<f64>,
    }
}

/// Longest first. The age is negative where the application's clock is ahead of the database's.
pub(super) fn waiting(rows: Vec<WaitingRow>) -> Vec<WaitingRun> {
    let mut runs: Vec<WaitingRun> = rows
        .into_iter()
        .map(|row| WaitingRun {
            operation_run_id: RunId(row.id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            waiting_seconds: row.waiting_seconds.unwrap_or(0.0).max(0.0),
        })
        .collect();
    runs.sort_by(|a, b| b.waiting_seconds.total_cmp(&a.waiting_seconds));
    runs
}

/// A pattern for LIKE that finds the text anywhere, with `\` as the sign of escape.
pub(super) fn anywhere(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
