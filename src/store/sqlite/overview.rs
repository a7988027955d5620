//! Reads over many connections and runs.

use super::bounds::{is_claimable, is_listed, is_shown, is_valid_connection, member, time};
use super::connections::connection_columns;
use super::reused_ids::latest_report_of_connection;
use super::{SqliteStore, id_list, now, run_type};
use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::overview::{ConnectionCounts, ConnectionState, History, TrendPoint, WaitingRun};
use crate::ports::overview::{ConnectionFilter, OverviewStore};
use crate::ports::store_error::StoreError;
use crate::store::filters::{ConnectionSql, push_binding, push_connection_filter};
use crate::store::overview::{
    self, ACTIVE_RUNS, CompletedRow, ConnectionCountsRow, EndRow, StateRow, TrendRow, WaitingRow,
};
use crate::store::rows;
use crate::store::sql::sql;
use crate::store::starting_point::facts_columns;
use crate::store::tolerant_decoding::Time;
use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};
use std::time::Duration;

/// The active runs are found by their index, once for the whole page.
const ACTIVE: &str = sql!(
    "WITH active AS (SELECT CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "$.provider_connection_id")
    " END AS connection, r.tenant_id, r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') LIMIT "
);

const STATES: &str = sql!(
    "), latest_active AS (SELECT connection, tenant_id, max(id) AS id FROM active
         GROUP BY connection, tenant_id)
     SELECT " connection_columns!()
    ", l.operation_run_id AS latest_run_id, l.fingerprint AS latest_fingerprint,
       l.overall AS latest_overall, l.outcome AS latest_outcome,
       l.completed_at AS latest_completed_at, a.id AS active_run_id, " facts_columns!()
    ", k.expires_at AS recorded_expires_at FROM provider_connections c
     LEFT JOIN verifyd_connection_facts f ON f.connection_id = c.id
     LEFT JOIN (SELECT provider_connection_id, expires_at, max(id) FROM provider_credentials
                GROUP BY provider_connection_id) k ON k.provider_connection_id = c.id
     LEFT JOIN " latest_report_of_connection!("")
    " LEFT JOIN latest_active a ON a.connection = CAST(c.id AS TEXT) AND a.tenant_id = c.tenant_id
     WHERE true"
);

const COUNTS: &str = sql!(
    "SELECT count(*) AS total, count(*) FILTER (WHERE NOT c.valid) AS unusable,
        count(*) FILTER (WHERE c.valid AND c.status = 'disabled') AS disabled,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'ready') AS ready,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'needs_attention') AS needs_attention,
        count(*) FILTER (WHERE c.enabled AND l.overall = 'blocked') AS blocked,
        count(*) FILTER (WHERE c.enabled AND l.outcome = 'failed') AS failed,
        count(*) FILTER (WHERE c.enabled AND l.connection_id IS NULL) AS never_checked
    FROM (SELECT c.id, c.workspace_id, c.tenant_id, c.status, (" is_valid_connection!()
    ") IS TRUE AS valid, (c.status = 'enabled' AND " is_valid_connection!()
    ") IS TRUE AS enabled FROM provider_connections c) c LEFT JOIN " latest_report_of_connection!("")
    " WHERE true"
);

const CONNECTION_SQL: ConnectionSql = ConnectionSql {
    is_valid: is_valid_connection!(),
    like: "LIKE",
    expires: sql!(
        "coalesce(CASE WHEN f.expiry_source IS NULL THEN " time!("k.expires_at")
        " ELSE " time!("f.credential_expires_at") " END, '~')"
    ),
    cursor: ("coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', ", "), '~')"),
};

/// The part of a run's report that the trend needs; NULL where the report is too large for a list.
macro_rules! report_part {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN " is_listed!("r.context") " THEN "
            member!("r.context", "$.verification_report.summary.overall") " END AS overall, CASE WHEN "
            is_listed!("r.context")
            " THEN r.context ->> '$.verification_report.previous_report_id' END AS previous"
        )
    };
}

/// Follows the reports of each connection back by primary keys only. Other writers may have written the
/// pointers, so only runs of this connection are followed.
const TREND: &str = sql!(
    "WITH RECURSIVE chain AS (
         SELECT l.connection_id, r.id, 1 AS depth, r.status, r.outcome, r.completed_at, " report_part!()
    ", r.workspace_id, r.tenant_id
         FROM provider_connections c JOIN " latest_report_of_connection!("")
    "    JOIN operation_runs r ON r.id = l.operation_run_id AND r.type = " run_type!()
    "    WHERE c.id IN (SELECT value FROM json_each($1)) AND $2 > 0
         UNION ALL
         SELECT c.connection_id, r.id, c.depth + 1, r.status, r.outcome, r.completed_at, " report_part!()
    ", r.workspace_id, r.tenant_id FROM chain c
         JOIN operation_runs r
             ON r.id = CASE WHEN typeof(c.previous) = 'integer' THEN c.previous END
             AND r.type = " run_type!() "        AND CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "$.provider_connection_id") " END = CAST(c.connection_id AS TEXT)
             AND r.workspace_id = c.workspace_id AND r.tenant_id = c.tenant_id
             AND r.completed_at <= c.completed_at
         WHERE c.depth < $2)
     SELECT connection_id, id AS operation_run_id, status, outcome, overall, completed_at
     FROM chain WHERE " is_shown!() " ORDER BY connection_id, depth DESC"
);

const END: &str = sql!("SELECT " now!() " AS now, max(id) AS newest FROM operation_runs");

const BELOW: &str = "SELECT created_at FROM operation_runs WHERE id <= $1 ORDER BY id DESC LIMIT 1";

const COMPLETED: &str = sql!(
    "SELECT r.outcome, r.created_at AS created_at,
            r.completed_at AS completed_at
     FROM operation_runs r WHERE r.status = 'completed' AND r.type = " run_type!()
);

const WAITING: &str = sql!(
    "SELECT r.id, r.workspace_id, r.tenant_id,
            (julianday('now') - julianday(r.created_at)) * 86400.0 AS waiting_seconds
     FROM operation_runs r WHERE r.status = 'queued' AND r.type = " run_type!() " AND " is_claimable!()
);

fn states(binding: &Binding) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new(ACTIVE);
    query.push_bind(ACTIVE_RUNS).push(STATES);
    push_binding(&mut query, "c", binding);
    query
}

#[async_trait]
impl OverviewStore for SqliteStore {
    async fn connection_states(
        &self,
        filter: &ConnectionFilter,
    ) -> Result<Vec<ConnectionState>, StoreError> {
        let mut query = states(&filter.binding);
        push_connection_filter(&mut query, filter, &CONNECTION_SQL);
        let found: Vec<StateRow> = query
            .build_query_as()
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn connection_state(
        &self,
        id: ConnectionId,
        binding: &Binding,
    ) -> Result<Option<ConnectionState>, StoreError> {
        let mut query = states(binding);
        query.push(" AND c.id = ").push_bind(id.0);
        let found: Option<StateRow> = query
            .build_query_as()
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn connection_counts(&self, binding: &Binding) -> Result<ConnectionCounts, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(COUNTS);
        push_binding(&mut query, "c", binding);
        let found: ConnectionCountsRow = query
            .build_query_as()
            .fetch_one(&mut *self.reader().await?)
            .await?;
        Ok(found.into())
    }

    async fn trend(
        &self,
        connections: &[ConnectionId],
        runs_each: u32,
    ) -> Result<Vec<TrendPoint>, StoreError> {
        let ids: Vec<i64> = connections.iter().map(|id| id.0).collect();
        let found: Vec<TrendRow> = sqlx::query_as(TREND)
            .bind(id_list(&ids))
            .bind(runs_each)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn history(
        &self,
        binding: &Binding,
        period: Duration,
        slices: u32,
        most: u32,
    ) -> Result<History, StoreError> {
        let mut reader = self.reader().await?;
        let end: EndRow = sqlx::query_as(END).fetch_one(&mut *reader).await?;
        let floor = end.floor(most);
        let below: Option<Option<Time>> = sqlx::query_scalar(BELOW)
            .bind(floor)
            .fetch_optional(&mut *reader)
            .await?;
        let mut query = QueryBuilder::<Sqlite>::new(COMPLETED);
        push_binding(&mut query, "r", binding);
        query.push(" AND r.id > ").push_bind(floor);
        query
            .push(" ORDER BY r.id DESC LIMIT ")
            .push_bind(i64::from(most));
        let found: Vec<CompletedRow> = query.build_query_as().fetch_all(&mut *reader).await?;

        Ok(overview::history(
            found,
            below.flatten(),
            end.now,
            period,
            slices,
            most,
        ))
    }

    async fn longest_waiting(
        &self,
        binding: &Binding,
        limit: u32,
    ) -> Result<Vec<WaitingRun>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(WAITING);
        push_binding(&mut query, "r", binding);
        // In the order of the index; a run that was recorded first has the smaller id.
        query
            .push(" ORDER BY r.id LIMIT ")
            .push_bind(i64::from(limit));
        let found: Vec<WaitingRow> = query
            .build_query_as()
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(overview::waiting(found))
    }
}
