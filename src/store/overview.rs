//! Reads over many connections and runs.

use super::bounds::{
    id_of_text, is_claimable, is_listed, is_read, is_shown, is_valid_connection, listed_member,
    repeats_report, short, time,
};
use super::connections::connection_columns;
use super::dialect::{
    a_second_after, among, at, each, has_active_status, is_about, moment, now, own, run_type,
};
use super::due::{due_since, is_due, not_before, seconds_since};
use super::filters::{push_binding, push_connection_filter};
use super::from_row::from_row;
use super::repeated_ids::{is_newest_of_id, is_not_repeated};
use super::reused_ids::{
    facts_of_connection, is_before_creation, is_of_its_run, latest_report_of_connection,
};
use super::rows::{self, ConnectionRow, name, optional_name};
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, fetch_all, fetch_optional, read};
use super::starting_point::{FactsPart, facts_columns};
use super::statement::{Sql, Statement};
use super::tolerant_decoding::{Text, Time};
use crate::domain::access::Binding;
use crate::domain::overview::{
    CompletedRun, ConnectionCounts, ConnectionState, ExpiryKey, History, KnownFacts, LatestReport,
    TrendPoint, WaitingRun,
};
use crate::domain::{ConnectionId, Outcome, RunId, TenantId, WorkspaceId};
use crate::ports::overview::{ConnectionFilter, OverviewStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Largest number of active runs that are looked through for those of the connections on a page.
const ACTIVE_RUNS: i64 = 10_000;

/// Number of the oldest queued runs among which one that was claimed before is found as the one that has waited longest.
const OLDEST_QUEUED: i64 = 1_000;

/// Largest number of rows that are read for one run, in a table that may contain other runs.
const ROWS_PER_RUN: i64 = 20;

/// What connections with their credential `k` and their facts `f` are sorted by in the order of expiry: as a check has
/// found it, else as it is recorded. No other place computes it: a row that two readers place differently is listed
/// twice or never. Texts that SQLite reads as times and `Time::of_sqlite` does not come last, as what is unknown.
macro_rules! expiry_key {
    (postgres) => {
        concat!(
            "coalesce(CAST(extract(epoch FROM CASE WHEN f.expiry_source IS NULL THEN ",
            time!(postgres "k.expires_at"),
            " ELSE ",
            time!(postgres "f.credential_expires_at"),
            " END) * 1000000 AS bigint), 9223372036854775807)"
        )
    };
    (sqlite) => {
        concat!(
            "coalesce(CAST(round((julianday(CASE WHEN f.expiry_source IS NOT NULL THEN f.credential_expires_at
                 WHEN ",
            is_read!("k.expires_at"),
            " THEN k.expires_at END) - 2440587.5) * 86400000) AS INTEGER) * 1000, 9223372036854775807)"
        )
    };
}

const EXPIRY_KEY: Sql = both!(expiry_key!());

/// The active runs, once for the whole page: the running ones, then the newest of the queued. Their index has this
/// order, but PostgreSQL may prefer to read and sort all of them. An invalid run, which is never completed, is none.
const ACTIVE: Sql = both!(
    "WITH active AS MATERIALIZED (SELECT " listed_member!("r.context", provider_connection_id)
    " AS connection, r.tenant_id, r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') AND " is_claimable!() " AND " is_not_repeated!("r")
    " ORDER BY r.status DESC, r.id DESC LIMIT "
);

const STATES: Sql = both!(
    "), latest_active AS (SELECT connection, tenant_id, max(id) AS id FROM active
         GROUP BY connection, tenant_id)
     SELECT " connection_columns!()
    ", l.operation_run_id AS latest_run_id, l.fingerprint AS latest_fingerprint,
       l.overall AS latest_overall, l.outcome AS latest_outcome,
       l.completed_at AS latest_completed_at, a.id AS active_run_id, " facts_columns!()
    ", " at!("k.expires_at") " AS recorded_expires_at, " expiry_key!() " AS expiry_key
     FROM provider_connections c LEFT JOIN " facts_of_connection!() " LEFT JOIN " each!(
        "LATERAL (SELECT n.expires_at FROM provider_credentials n
                  WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true",
        "(SELECT provider_connection_id, expires_at, max(id) FROM provider_credentials
          GROUP BY provider_connection_id) k ON k.provider_connection_id = c.id"
    ) " LEFT JOIN " latest_report_of_connection!()
    " LEFT JOIN latest_active a ON a.connection = CAST(c.id AS text) AND a.tenant_id = c.tenant_id
     WHERE true"
);

const COUNTS: Sql = both!(
    "SELECT count(*) AS total, count(*) FILTER (WHERE NOT c.valid) AS unusable,
        count(*) FILTER (WHERE c.valid AND c.status = 'disabled') AS disabled,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'ready') AS ready,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'needs_attention') AS needs_attention,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'blocked') AS blocked,
        count(*) FILTER (WHERE c.enabled AND l.outcome = 'failed') AS failed,
        count(*) FILTER (WHERE c.enabled AND l.connection_id IS NULL) AS never_checked
    FROM (SELECT c.id, c.workspace_id, c.tenant_id, c.status, c.created_at, (" is_valid_connection!()
    ") IS TRUE AS valid, (c.status = 'enabled' AND " is_valid_connection!()
    ") IS TRUE AS enabled FROM provider_connections c) c LEFT JOIN " latest_report_of_connection!()
    " WHERE true"
);

/// The previous report of the run `r`: in SQLite as it is, since only an integer is followed there.
macro_rules! previous_report {
    (postgres) => {
        listed_member!(postgres "r.context", verification_report previous_report_id)
    };
    (sqlite) => {
        sql_for!(
            sqlite "CASE WHEN " is_listed!("r.context")
            " THEN r.context ->> '$.verification_report.previous_report_id' END"
        )
    };
}

/// The id that the member `previous` is.
macro_rules! previous_id {
    (postgres) => {
        id_of_text!("c.previous")
    };
    (sqlite) => {
        "CASE WHEN typeof(c.previous) = 'integer' THEN c.previous END"
    };
}

/// The part of a run's report that the trend needs; NULL where a list does not look into the context, or it repeats the
/// report.
macro_rules! report_part {
    ($db:ident) => {
        sql_for!(
            $db "CASE WHEN NOT " repeats_report!("r.context") " THEN "
            listed_member!("r.context", verification_report summary overall)
            " END AS overall, CASE WHEN NOT " repeats_report!("r.context") " THEN " previous_report!()
            " END AS previous"
        )
    };
}

/// Follows the reports of each connection back by primary keys only. Other writers may have written the
/// pointers, so only runs of this connection are followed.
const TREND: Sql = both!(
    "WITH RECURSIVE chain AS (
         SELECT l.connection_id, r.id, 1 AS depth, r.status, r.outcome, r.completed_at, " report_part!()
    ", r.workspace_id, r.tenant_id
         FROM provider_connections c JOIN " latest_report_of_connection!()
    "    JOIN operation_runs r ON r.id = l.operation_run_id AND r.type = " run_type!() " AND " is_newest_of_id!("r")
    "    WHERE c.id " among!("$1") " AND $2 > 0
         UNION ALL
         SELECT c.connection_id, r.id, c.depth + 1, r.status, r.outcome, r.completed_at, " report_part!()
    ", r.workspace_id, r.tenant_id FROM chain c
         JOIN operation_runs r ON r.id = " previous_id!() " AND r.type = " run_type!() " AND " is_newest_of_id!("r") " AND "
    listed_member!("r.context", provider_connection_id) " = CAST(c.connection_id AS text)
             AND r.workspace_id = c.workspace_id AND r.tenant_id = c.tenant_id
             AND r.completed_at <= c.completed_at
         WHERE c.depth < $2)
     SELECT connection_id, id AS operation_run_id, status, outcome, overall, "
    at!("completed_at") " AS completed_at
     FROM chain WHERE " is_shown!() " ORDER BY connection_id, depth DESC"
);

const END: Sql = both!("SELECT " now!() " AS now, max(id) AS newest FROM operation_runs");

const BELOW: Sql = both!(
    "SELECT " at!("created_at") " FROM operation_runs WHERE id <= $1 ORDER BY id DESC LIMIT 1"
);

const COMPLETED: Sql = both!(
    "SELECT " short!("r.outcome") " AS outcome, " at!("r.created_at") " AS created_at, "
    at!("r.completed_at") " AS completed_at
     FROM operation_runs r WHERE r.status = 'completed' AND r.type = " run_type!()
);

/// Queued runs, with what says since when each is due. A run that was recorded first has the smaller id, so the oldest are
/// found in the order of their index.
macro_rules! queued_runs {
    ($db:ident) => {
        sql_for!(
            $db "SELECT r.id, r.workspace_id, r.tenant_id, r.started_at, " time!("r.created_at") " AS recorded_at, "
            not_before!("r") " AS not_before
             FROM operation_runs r WHERE " has_active_status!("queued") " AND r.type = " run_type!() " AND "
            is_claimable!() " AND " is_not_repeated!("r")
        )
    };
}

/// Of the runs that were never claimed, which are always due, the oldest...
const NEVER_CLAIMED: Sql = both!(
    "SELECT id, workspace_id, tenant_id, " seconds_since!(due_since!()) " AS waiting_seconds FROM (SELECT * FROM ("
    queued_runs!() " AND r.started_at IS NULL"
);

/// ...and of the oldest queued runs those that were claimed before. One that is recorded after a due run has waited for less
/// time.
const CLAIMED_BEFORE: Sql = both!(") never_claimed UNION ALL SELECT * FROM (" queued_runs!());

/// Of both the ones that are due. One whose wait has just ended may have a smaller id than one that has waited for longer.
const LONGEST_DUE: Sql = both!(
    ") oldest WHERE started_at IS NOT NULL) r WHERE " is_due!("not_before")
    " ORDER BY waiting_seconds DESC NULLS LAST, id LIMIT "
);

/// The statement that finds the due runs that have waited longest for a worker.
pub(super) fn longest_due(binding: &Binding, limit: u32) -> Statement {
    let mut query = Statement::from(NEVER_CLAIMED);
    push_binding(&mut query, "r", binding);
    query.push_text(" ORDER BY r.id LIMIT ").push_bind(limit);
    query.push(CLAIMED_BEFORE);
    push_binding(&mut query, "r", binding);
    query
        .push_text(" ORDER BY r.id LIMIT ")
        .push_bind(OLDEST_QUEUED);
    query.push(LONGEST_DUE).push_bind(limit);
    query
}

fn states(binding: &Binding) -> Statement {
    let mut query = Statement::from(ACTIVE);
    query.push_bind(ACTIVE_RUNS).push(STATES);
    push_binding(&mut query, "c", binding);
    query
}

#[async_trait]
impl<S: SqlStore> OverviewStore for S {
    async fn connection_states(
        &self,
        filter: &ConnectionFilter,
    ) -> Result<Vec<ConnectionState>, StoreError> {
        let mut query = states(&filter.binding);
        push_connection_filter(&mut query, filter, EXPIRY_KEY);
        rows::all(fetch_all::<StateRow>(self, query).await?)
    }

    async fn connection_state(
        &self,
        id: ConnectionId,
        binding: &Binding,
    ) -> Result<Option<ConnectionState>, StoreError> {
        let mut query = states(binding);
        query.push_text(" AND c.id = ").push_bind(id.0);
        let found: Option<StateRow> = fetch_optional(self, query).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn connection_counts(&self, binding: &Binding) -> Result<ConnectionCounts, StoreError> {
        let mut query = Statement::from(COUNTS);
        push_binding(&mut query, "c", binding);
        let row: ConnectionCountsRow = read(self, async |tx| query.fetch_one(tx).await).await?;
        Ok(row.into())
    }

    async fn trend(
        &self,
        connections: &[ConnectionId],
        runs_each: u32,
    ) -> Result<Vec<TrendPoint>, StoreError> {
        let ids: Vec<i64> = connections.iter().map(|id| id.0).collect();
        rows::all(fetch_all::<TrendRow>(self, TREND.bind(ids).bind(runs_each)).await?)
    }

    async fn history(
        &self,
        binding: &Binding,
        period: Duration,
        slices: u32,
        most: u32,
    ) -> Result<History, StoreError> {
        read(self, async |tx| {
            let end: EndRow = END.fetch_one(tx).await?;
            let floor = end.floor(most);
            let below: Option<(Option<Time>,)> = BELOW.bind(floor).fetch_optional(tx).await?;
            let below = below.and_then(|(created_at,)| created_at);
            let mut query = Statement::from(COMPLETED);
            push_binding(&mut query, "r", binding);
            query.push_text(" AND r.id > ").push_bind(floor);
            query
                .push_text(" ORDER BY r.id DESC LIMIT ")
                .push_bind(most);
            let found = query.fetch_all(tx).await?;
            Ok(history(found, below, end.now, period, slices, most))
        })
        .await
    }

    async fn longest_waiting(
        &self,
        binding: &Binding,
        limit: u32,
    ) -> Result<Vec<WaitingRun>, StoreError> {
        let found: Vec<WaitingRow> = fetch_all(self, longest_due(binding, limit)).await?;
        Ok(found.into_iter().map(WaitingRun::from).collect())
    }
}

from_row! {
    /// A connection, its latest report, all NULL where there is none, and its active run.
    #[derive(Debug)]
    struct StateRow {
        latest_run_id: Option<i64>,
        latest_fingerprint: Option<String>,
        latest_overall: Option<String>,
        latest_outcome: Option<String>,
        latest_completed_at: Option<DateTime<Utc>>,
        active_run_id: Option<i64>,
        recorded_expires_at: Option<Time>,
        expiry_key: i64;
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
        let recorded = rows::recorded_expiry(row.recorded_expires_at).known();
        let kept = row.facts.kept(connection.id)?;
        Ok(Self {
            facts: KnownFacts::of(&connection, kept).or_recorded(recorded),
            connection,
            problem,
            latest_report,
            active_run_id: row.active_run_id.map(RunId),
            expiry_key: ExpiryKey(row.expiry_key),
        })
    }
}

from_row! {
    #[derive(Debug)]
    struct ConnectionCountsRow {
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
    struct TrendRow {
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
            outcome: optional_name("operation_runs", "outcome", id, &row.outcome)?,
            overall: row.overall.map(|text| text.0),
            completed_at: row.completed_at.and_then(Time::known),
        })
    }
}

from_row! {
    /// The database's time, and where its table of runs ends.
    #[derive(Debug)]
    struct EndRow {
        now: DateTime<Utc>,
        newest: Option<i64>,
    }
}

impl EndRow {
    /// Only runs above this id are looked at.
    fn floor(&self, most: u32) -> i64 {
        self.newest
            .unwrap_or(0)
            .saturating_sub(i64::from(most).saturating_mul(ROWS_PER_RUN))
            .max(0)
    }
}

from_row! {
    #[derive(Debug)]
    struct CompletedRow {
        outcome: Option<Text>,
        created_at: Option<Time>,
        completed_at: Option<Time>,
    }
}

/// A history of rows that were read newest first. `below` is when the last row was recorded that is
/// too old to be looked at, if there is one.
fn history(
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
    struct WaitingRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        waiting_seconds: Option<f64>,
    }
}

impl From<WaitingRow> for WaitingRun {
    fn from(row: WaitingRow) -> Self {
        Self {
            operation_run_id: RunId(row.id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            // Negative where the application's clock is ahead of the database's.
            waiting_seconds: row.waiting_seconds.unwrap_or(0.0).max(0.0),
        }
    }
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
