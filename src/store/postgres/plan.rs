//! The stored inventories of many connections, for plans.

use super::bounds::{is_listed, is_valid_connection, member};
use super::connections::connection_columns;
use super::inventory::is_of_its_run;
use super::{PostgresStore, run_type};
use crate::domain::plan::PlanSubject;
use crate::ports::plan::{PlanFilter, PlanStore};
use crate::ports::store_error::StoreError;
use crate::store::plan::{self, GrantedRow, SubjectRow};
use crate::store::sql::sql;
use crate::store::starting_point::facts_columns;
use async_trait::async_trait;

/// The page is cut before anything is joined to it. An inventory whose run is another one of the same id is
/// ignored. `$1`: provider, `$2`: workspace, `$3`: tenant, `$4`: after this id, `$5`: limit.
const SUBJECTS: &str = sql!(
    "SELECT " connection_columns!()
    ", i.refreshed_at AS inventory_read_at, i.source AS inventory_source,
       CASE WHEN r.id IS NOT NULL THEN coalesce(CASE WHEN " is_listed!("r.context") " THEN "
    member!("r.context", "{provider_connection_id}") " END, '') END AS read_by, " facts_columns!()
    " FROM (SELECT * FROM provider_connections c WHERE " is_valid_connection!()
    " AND c.provider = $1 AND ($2::bigint IS NULL OR c.workspace_id = $2)
      AND ($3::bigint IS NULL OR c.tenant_id = $3) AND ($4::bigint IS NULL OR c.id > $4)
      ORDER BY c.id LIMIT $5) c
     LEFT JOIN verifyd.tenant_inventory i ON i.tenant_id = c.tenant_id AND (" is_of_its_run!()
    " OR NOT EXISTS (SELECT FROM operation_runs p WHERE p.id = i.operation_run_id))
     LEFT JOIN operation_runs r ON r.id = i.operation_run_id AND r.type = " run_type!()
    " LEFT JOIN verifyd.connection_facts f ON f.connection_id = c.id ORDER BY c.id"
);

/// Without those that only another permission includes. `$1`: tenants, `$2`: keys.
const GRANTED: &str = sql!(
    "SELECT p.tenant_id, p.permission_key FROM tenant_permissions p
     WHERE p.tenant_id = ANY($1) AND p.permission_key = ANY($2) AND p.status = 'granted'
     AND CASE WHEN " is_listed!("p.details") " THEN p.details ->> 'satisfied_by' END IS NULL"
);

#[async_trait]
impl PlanStore for PostgresStore {
    async fn plan_subjects(&self, filter: &PlanFilter) -> Result<Vec<PlanSubject>, StoreError> {
        self.transaction(async |tx| {
            let found: Vec<SubjectRow> = self
                .rows(SUBJECTS)
                .bind(&filter.provider)
                .bind(filter.binding.workspace_id.map(|id| id.0))
                .bind(filter.binding.tenant_id.map(|id| id.0))
                .bind(filter.after.map(|id| id.0))
                .bind(i64::from(filter.limit))
                .fetch_all(&mut *tx)
                .await?;
            let granted: Vec<GrantedRow> = self
                .rows(GRANTED)
                .bind(plan::tenants(&found))
                .bind(&filter.keys)
                .fetch_all(&mut *tx)
                .await?;
            plan::subjects(found, granted)
        })
        .await
    }
}
