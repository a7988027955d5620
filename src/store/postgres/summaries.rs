//! Runs as lists and live streams read them: a few columns and members, never a whole context.

use super::bounds::{is_listed, is_shown, member};
use super::{PostgresStore, run_type};
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
use sqlx::{Postgres, QueryBuilder};

/// Before the statement that chooses the rows of a page...
const SUMMARIES: &str = sql!(
    "SELECT p.id, p.workspace_id, p.tenant_id, p.status, p.outcome, p.created_at, p.started_at,
            p.completed_at, l.listed, " member!("x.context", "{provider_connection_id}")
    " AS connection, " member!("x.context", "{provider}") " AS provider, "
    member!("x.context", "{module}") " AS module, "
    member!("x.context", "{target_scope,entra_tenant_name}")
    " AS display_name, jsonb_typeof(v.report) AS report_type, " member!("v.report", "{schema_version}")
    " AS schema_version, " member!("v.report", "{summary,overall}") " AS overall, "
    member!("v.report", "{fingerprint}") " AS fingerprint, "
    member!("v.report", "{summary,counts,fail}") " AS failed, "
    member!("v.report", "{summary,counts,warn}") " AS warned,
     (SELECT left(k.c ->> 'reason_code', 300)
      FROM jsonb_array_elements(CASE WHEN jsonb_typeof(v.report -> 'checks') = 'array'
                                     THEN v.report -> 'checks' ELSE '[]' END)
          WITH ORDINALITY AS k (c, place)
      WHERE k.c -> 'status' IN ('\"fail\"', '\"warn\"')
        AND jsonb_typeof(k.c -> 'reason_code') = 'string'
      ORDER BY k.c -> 'status' <> '\"fail\"',
               k.c -> 'status' = '\"fail\"' AND k.c -> 'blocking' = 'true' DESC,
               array_position(ARRAY['\"critical\"', '\"high\"', '\"medium\"', '\"low\"',
                                    '\"info\"']::jsonb[], k.c -> 'severity') NULLS LAST,
               k.place LIMIT 1) AS main_reason FROM ("
);

/// ...and after it. Each context is unpacked once.
const OF_PAGE: &str = sql!(
    ") p CROSS JOIN LATERAL (SELECT coalesce(" is_listed!("p.context") ", true) AS listed OFFSET 0) l
     CROSS JOIN LATERAL (SELECT CASE WHEN l.listed THEN p.context #> '{}' END AS context OFFSET 0) x
     CROSS JOIN LATERAL (SELECT x.context -> 'verification_report' AS report OFFSET 0) v
     ORDER BY p.id DESC"
);

/// Leaves out the rows that `invalid_runs` lists: one of them must not prevent the list.
macro_rules! listed {
    () => {
        $crate::store::sql::sql!(
            " FROM operation_runs r WHERE r.type = " run_type!() " AND " is_shown!()
        )
    };
}

const RUNS: &str = sql!(
    "SELECT r.id, r.workspace_id, r.tenant_id, r.status, r.outcome, r.context,
            r.created_at::timestamptz AS created_at, r.started_at::timestamptz AS started_at,
            r.completed_at::timestamptz AS completed_at" listed!()
);

const STATES: &str = sql!("SELECT r.id, r.workspace_id, r.tenant_id, r.status" listed!());

#[async_trait]
impl SummaryStore for PostgresStore {
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(SUMMARIES);
        query.push(RUNS);
        push_run_filter(
            &mut query,
            filter,
            sql!(" AND " is_listed!("r.context") " AND r.context ->> 'provider_connection_id' = "),
        );
        self.summarise(query).await
    }

    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(SUMMARIES);
        query.push(RUNS).push(" AND r.id = ").push_bind(id.0);
        Ok(self.summarise(query).await?.pop())
    }

    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(STATES);
        query.push(" AND r.id = ").push_bind(id.0);
        Ok(self.states(query).await?.pop())
    }

    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(STATES);
        push_binding(&mut query, "r", binding);
        query
            .push(" ORDER BY r.id DESC LIMIT ")
            .push_bind(i64::from(limit));
        self.states(query).await
    }
}

impl PostgresStore {
    async fn summarise(
        &self,
        mut query: QueryBuilder<Postgres>,
    ) -> Result<Vec<RunSummary>, StoreError> {
        query.push(OF_PAGE);
        let found: Vec<SummaryRow> = self.fetch_all(self.built(&mut query)).await?;
        rows::all(found)
    }

    async fn states(&self, mut query: QueryBuilder<Postgres>) -> Result<Vec<RunState>, StoreError> {
        let found: Vec<StateRow> = self.fetch_all(self.built(&mut query)).await?;
        rows::all(found)
    }
}
