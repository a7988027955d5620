//! Reads over many connections and runs.

use super::bounds::{is_claimable, is_listed, is_shown, is_valid_connection, member, short, time};
use super::connections::connection_columns;
use super::reused_ids::latest_report_of_connection;
use super::{PostgresStore, run_type};
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
use sqlx::{Postgres, QueryBuilder};
use std::time::Duration;

/// The active runs are found by their index, once for the whole page.
const ACTIVE: &str = sql!(
    "WITH active AS MATERIALIZED (SELECT CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "{provider_connection_id}")
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
    ", " time!("k.expires_at") " AS recorded_expires_at
     FROM provider_connections c
     LEFT JOIN verifyd.connection_facts f ON f.connection_id = c.id
     LEFT JOIN LATERAL (SELECT n.expires_at FROM provider_credentials n
                        WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true
     LEFT JOIN " latest_report_of_connection!("")
    " LEFT JOIN latest_active a ON a.connection = c.id::text AND a.tenant_id = c.tenant_id
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
    like: "ILIKE",
    expires: sql!(
        "coalesce(CASE WHEN f.expiry_source IS NULL THEN " time!("k.expires_at")
        " ELSE f.credential_expires_at END, 'infinity'::timestamptz)"
    ),
    cursor: ("coalesce(", ", 'infinity'::timestamptz)"),
};

/// The part of a run's report that the trend needs; NULL where the report is too large for a list.
macro_rules! report_part {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN " is_listed!("r.context") " THEN "
            member!("r.context", "{verification_report,summary,overall}") " END AS overall, CASE WHEN "
            is_listed!("r.context") " THEN "
            member!("r.context", "{verification_report,previous_report_id}") " END AS previous"
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
    "    WHERE c.id = ANY($1) AND $2 > 0
         UNION ALL
         SELECT c.connection_id, r.id, c.depth + 1, r.status, r.outcome, r.completed_at, " report_part!()
    ", r.workspace_id, r.tenant_id FROM chain c
         JOIN operation_runs r
             ON r.id = CASE WHEN c.previous ~ '^[0-9]{1,18}$' THEN c.previous::bigint END
             AND r.type = " run_type!() "        AND CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "{provider_connection_id}") " END = c.connection_id::text
             AND r.workspace_id = c.workspace_id AND r.tenant_id = c.tenant_id
             AND r.completed_at <= c.completed_at
         WHERE c.depth < $2)
     SELECT connection_id, id AS operation_run_id, status, outcome, overall,
            completed_at::timestamptz AS completed_at
     FROM chain WHERE " is_shown!() " ORDER BY connection_id, depth DESC"
);

const END: &str = "SELECT now() AS now, max(id) AS newest FROM operation_runs";

const BELOW: &str = "
    SELECT created_at::timestamptz FROM operation_runs WHERE id <= $1 ORDER BY id DESC LIMIT 1";

const COMPLETED: &str = sql!(
    "SELECT " short!("r.outcome") " AS outcome, r.created_at::timestamptz AS created_at,
            r.completed_at::timestamptz AS completed_at
     FROM operation_runs r WHERE r.status = 'completed' AND r.type = " run_type!()
);

const WAITING: &str = sql!(
    "SELECT r.id, r.workspace_id, r.tenant_id,
            extract(epoch FROM now() - " time!("r.created_at") ")::float8 AS waiting_seconds
     FROM operation_runs r WHERE r.status = 'queued' AND r.type = " run_type!() " AND " is_claimable!()
);

fn states(binding: &Binding) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(ACTIVE);
    query.push_bind(ACTIVE_RUNS).push(STATES);
    push_binding(&mut query, "c", binding);
    query
}

#[async_trait]
impl OverviewStore for PostgresStore {
    async fn connection_states(
        &self,
        filter: &ConnectionFilter,
    ) -> Result<Vec<ConnectionState>, StoreError> {
        let mut query = states(&filter.binding);
        push_connection_filter(&mut query, filter, &CONNECTION_SQL);
        let found: Vec<StateRow> = self.fetch_all(self.built(&mut query)).await?;
        rows::all(found)
    }

    async fn connection_state(
        &self,
        id: ConnectionId,
        binding: &Binding,
    ) -> Result<Option<ConnectionState>, StoreError> {
        let mut query = states(binding);
        query.push(" AND c.id = ").push_bind(id.0);
        let found: Option<StateRow> = self.fetch_optional(self.built(&mut query)).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn connection_counts(&self, binding: &Binding) -> Result<ConnectionCounts, StoreError> {
        self.transaction(async |tx| {
            let mut query = QueryBuilder::<Postgres>::new(COUNTS);
            push_binding(&mut query, "c", binding);
            let query = self.built::<ConnectionCountsRow>(&mut query);
            let found = query.fetch_one(&mut *tx).await?;
            Ok(found.into())
        })
        .await
    }

    async fn trend(
        &self,
        connections: &[ConnectionId],
        runs_each: u32,
    ) -> Result<Vec<TrendPoint>, StoreError> {
        let ids: Vec<i64> = connections.iter().map(|id| id.0).collect();
        let query = self
            .rows(TREND)
            .bind(ids)
            .bind(i32::try_from(runs_each).unwrap_or(i32::MAX));
        let found: Vec<TrendRow> = self.fetch_all(query).await?;
        rows::all(found)
    }

    async fn history(
        &self,
        binding: &Binding,
        period: Duration,
        slices: u32,
        most: u32,
    ) -> Result<History, StoreError> {
        self.transaction(async |tx| {
            let end: EndRow = self.rows(END).fetch_one(&mut *tx).await?;
            let floor = end.floor(most);
            let below: Option<Option<Time>> = self
                .scalar(BELOW)
                .bind(floor)
                .fetch_optional(&mut *tx)
                .await?;
            let mut query = QueryBuilder::<Postgres>::new(COMPLETED);
            push_binding(&mut query, "r", binding);
            query.push(" AND r.id > ").push_bind(floor);
            query
                .push(" ORDER BY r.id DESC LIMIT ")
                .push_bind(i64::from(most));
            let query = self.built::<CompletedRow>(&mut query);
            let found = query.fetch_all(&mut *tx).await?;
            Ok(overview::history(
                found,
                below.flatten(),
                end.now,
                period,
                slices,
                most,
            ))
        })
        .await
    }

    async fn longest_waiting(
        &self,
        binding: &Binding,
        limit: u32,
    ) -> Result<Vec<WaitingRun>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(WAITING);
        push_binding(&mut query, "r", binding);
        // In the order of the index; a run that was recorded first has the smaller id.
        query
            .push(" ORDER BY r.id LIMIT ")
            .push_bind(i64::from(limit));
        let found: Vec<WaitingRow> = self.fetch_all(self.built(&mut query)).await?;
        Ok(overview::waiting(found))
    }
}
