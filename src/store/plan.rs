//! The stored inventories of many connections, for plans.

use super::bounds::{fits, is_listable, is_valid_connection, member, short};
use super::connections::connection_columns;
use super::dialect::{a_second_after, among, at, each, is_about, moment, now, own, run_type};
use super::from_row::from_row;
use super::inventory::is_read_by_its_run;
use super::repeated_ids::is_newest_of_id;
use super::reused_ids::{facts_of_connection, is_before_creation};
use super::rows::ConnectionRow;
use super::sql::both;
use super::sql_store::{SqlStore, read};
use super::starting_point::{FactsPart, facts_columns};
use super::statement::Sql;
use super::tolerant_decoding::{Text, Time};
use crate::domain::ConnectionId;
use crate::domain::connection::ProviderConnection;
use crate::domain::plan::{PlanSubject, StoredGrants};
use crate::ports::plan::{PlanFilter, PlanStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};

/// The page is cut before anything is joined to it. An inventory whose run is another one of the same id is
/// ignored; one that is older than the connection was read through another one. `$1`: provider, `$2`:
/// workspace, `$3`: tenant, `$4`: after this id, `$5`: limit.
const SUBJECTS: Sql = both!(
    "SELECT " connection_columns!()
    ", i.refreshed_at AS inventory_read_at, i.source AS inventory_source,
       CASE WHEN " is_before_creation!("i.refreshed_at")
    " THEN '' WHEN r.id IS NOT NULL THEN coalesce(CASE WHEN " is_listable!("r.context") " THEN "
    member!("r.context", provider_connection_id) " END, '') END AS read_by, " facts_columns!()
    " FROM (SELECT * FROM provider_connections c WHERE " is_valid_connection!()
    " AND c.provider = $1 AND ($2 IS NULL OR c.workspace_id = $2)
      AND ($3 IS NULL OR c.tenant_id = $3) AND ($4 IS NULL OR c.id > $4) ORDER BY c.id LIMIT $5) c
     LEFT JOIN " own!(tenant_inventory) " i ON i.tenant_id = c.tenant_id AND ("
    is_read_by_its_run!("i")
    " OR NOT EXISTS (SELECT 1 FROM operation_runs p WHERE p.id = i.operation_run_id))
     LEFT JOIN operation_runs r ON r.id = i.operation_run_id AND r.type = " run_type!() " AND " is_newest_of_id!("r")
    " LEFT JOIN " facts_of_connection!() " ORDER BY c.id"
);

/// Without those that only another permission includes; details that are too large for the inventory say
/// nothing here either. `$1`: tenants, `$2`: keys.
const GRANTED: Sql = both!(
    "SELECT p.tenant_id, p.permission_key FROM tenant_permissions p
     WHERE p.tenant_id " among!("$1") " AND p.permission_key " among!("$2")
    " AND p.status = 'granted' AND CASE WHEN " fits!("p.details", "65536")
    each!("", " AND json_valid(p.details)") " THEN p.details ->> 'satisfied_by' END IS NULL"
);

#[async_trait]
impl<S: SqlStore> PlanStore for S {
    async fn plan_subjects(&self, filter: &PlanFilter) -> Result<Vec<PlanSubject>, StoreError> {
        let page = SUBJECTS
            .bind(&filter.provider)
            .bind(filter.binding.workspace_id.map(|id| id.0))
            .bind(filter.binding.tenant_id.map(|id| id.0))
            .bind(filter.after.map(|id| id.0))
            .bind(filter.limit);
        read(self, async |tx| {
            let found: Vec<SubjectRow> = page.fetch_all(tx).await?;
            let granted = GRANTED.bind(tenants(&found)).bind(&filter.keys);
            subjects(found, granted.fetch_all(tx).await?)
        })
        .await
    }
}

from_row! {
    /// A connection, and how its tenant's inventory was read; all NULL where it never was.
    #[derive(Debug)]
    struct SubjectRow {
        inventory_read_at: Option<Time>,
        inventory_source: Option<Text>,
        read_by: Option<Text>;
        connection: ConnectionRow,
        facts: FactsPart
    }
}

from_row! {
    /// A permission that is granted itself.
    #[derive(Debug)]
    struct GrantedRow {
        tenant_id: i64,
        permission_key: Text,
    }
}

/// Tenants of these connections.
fn tenants(rows: &[SubjectRow]) -> Vec<i64> {
    let tenants: BTreeSet<i64> = rows.iter().filter_map(|r| r.connection.tenant()).collect();
    tenants.into_iter().collect()
}

/// Returns the connections with the permissions that are granted to their tenants.
fn subjects(
    rows: Vec<SubjectRow>,
    granted: Vec<GrantedRow>,
) -> Result<Vec<PlanSubject>, StoreError> {
    let mut by_tenant: HashMap<i64, BTreeSet<String>> = HashMap::new();
    for row in granted {
        by_tenant
            .entry(row.tenant_id)
            .or_default()
            .insert(row.permission_key.0);
    }
    rows.into_iter()
        .map(|row| {
            let connection = row.connection;
            let connection: ProviderConnection = connection.try_into()?;
            let known = row.facts.kept(connection.id)?.map(|kept| {
                let changed = kept.credential_changed_at;
                kept.still_true(&connection, changed)
            });
            let granted = by_tenant.get(&connection.tenant_id.0);
            let grants = row.inventory_source.map(|source| StoredGrants {
                read_at: row.inventory_read_at.and_then(Time::known),
                source: source.0.parse().ok(),
                read_by: row.read_by.map(|id| {
                    // A value that is no id belongs to no connection.
                    ConnectionId(id.0.parse().unwrap_or_default())
                }),
                granted: granted.cloned().unwrap_or_default(),
            });
            Ok(PlanSubject {
                connection,
                known: known.unwrap_or_default(),
                grants,
            })
        })
        .collect()
}
