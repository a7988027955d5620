//! Runs as lists and live streams read them: a few columns and members, never a whole context.

use super::bounds::{is_listed, is_shown, member};
use super::runs::connection_of_context;
use super::{SqliteStore, run_type};
use crate::domain::access::Binding;
use crate::domain::run::RunState;
use crate::domain::{RunId, RunSummary};
use crate::ports::runs::{RunFilter, SummaryStore};
use crate::ports::store_error::StoreError;
use crate::store::filters::{push_binding, push_run_filter};
use crate::store::rows;
use crate::store::sql::sql;
use crate::store::summaries::{StateRow, SummaryRow};
use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};

/// Before the statement that chooses the rows of a page...
const SUMMARIES: &str = sql!(
    "SELECT p.id, p.workspace_id, p.tenant_id, p.status, p.outcome, p.created_at, p.started_at,
            p.completed_at, p.listed, " member!("p.context", "$.provider_connection_id")
    " AS connection, " member!("p.context", "$.provider") " AS provider, "
    member!("p.context", "$.module") " AS module, "
    member!("p.context", "$.target_scope.entra_tenant_name")
    " AS display_name, json_type(p.context, '$.verification_report') AS report_type, "
    member!("p.context", "$.verification_report.schema_version") " AS schema_version, "
    member!("p.context", "$.verification_report.summary.overall") " AS overall, "
    member!("p.context", "$.verification_report.fingerprint") " AS fingerprint, "
    member!("p.context", "$.verification_report.summary.counts.fail") " AS failed, "
    member!("p.context", "$.verification_report.summary.counts.warn") " AS warned,
     (SELECT substr(CAST(k.value ->> 'reason_code' AS TEXT), 1, 300)
      FROM json_each(p.context, '$.verification_report.checks') k
      WHERE k.type = 'object' AND json_type(p.context, '$.verification_report.checks') = 'array'
        AND k.value ->> 'status' IN ('fail', 'warn')
        AND json_type(k.value, '$.reason_code') = 'text'
      ORDER BY k.value ->> 'status' <> 'fail',
               k.value ->> 'status' = 'fail' AND json_type(k.value, '$.blocking') = 'true' DESC,
               CASE k.value ->> 'severity' WHEN 'critical' THEN 1 WHEN 'high' THEN 2
                   WHEN 'medium' THEN 3 WHEN 'low' THEN 4 WHEN 'info' THEN 5 ELSE 6 END,
               k.key LIMIT 1) AS main_reason
     FROM (SELECT *, CASE WHEN listed THEN stored END AS context FROM ("
);

/// ...and after it.
const OF_PAGE: &str = ")) p ORDER BY p.id DESC";

/// Leaves out the rows that `invalid_runs` lists: one of them must not prevent the list.
macro_rules! listed {
    () => {
        $crate::store::sql::sql!(
            " FROM operation_runs r WHERE r.type = " run_type!() " AND " is_shown!()
        )
    };
}

const RUNS: &str = sql!(
    "SELECT id, workspace_id, tenant_id, status, outcome, " is_listed!("context")
    " AS listed, CASE WHEN " is_listed!("context")
    " THEN context END AS stored, created_at, started_at, completed_at" listed!()
);

const STATES: &str = sql!("SELECT id, workspace_id, tenant_id, status" listed!());

#[async_trait]
impl SummaryStore for SqliteStore {
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SUMMARIES);
        query.push(RUNS);
        push_run_filter(
            &mut query,
            filter,
            sql!(" AND " connection_of_context!() " = "),
        );
        self.summarise(query).await
    }

    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SUMMARIES);
        query.push(RUNS).push(" AND r.id = ").push_bind(id.0);
        Ok(self.summarise(query).await?.pop())
    }

    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(STATES);
        query.push(" AND r.id = ").push_bind(id.0);
        Ok(self.states(query).await?.pop())
    }

    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(STATES);
        push_binding(&mut query, "r", binding);
        query.push(" ORDER BY r.id DESC LIMIT ").push_bind(limit);
        self.states(query).await
    }
}

impl SqliteStore {
    async fn summarise(
        &self,
        mut query: QueryBuilder<Sqlite>,
    ) -> Result<Vec<RunSummary>, StoreError> {
        let found: Vec<SummaryRow> = query
            .push(OF_PAGE)
            .build_query_as()
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn states(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<RunState>, StoreError> {
        let found: Vec<StateRow> = query
            .build_query_as()
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }
}
