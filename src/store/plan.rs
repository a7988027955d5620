//! The reads for plans that both databases share.

use super::from_row::from_row;
use super::rows::ConnectionRow;
use super::starting_point::FactsPart;
use super::tolerant_decoding::{Text, Time};
use crate::domain::ConnectionId;
use crate::domain::connection::ProviderConnection;
use crate::domain::plan::{PlanSubject, StoredGrants};
use crate::ports::store_error::StoreError;
use std::collections::{BTreeSet, HashMap};

from_row! {
    /// A connection, and how its tenant's inventory was read; all NULL where it never was.
    #[derive(Debug)]
    pub(super) struct SubjectRow {
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
    pub(super) struct GrantedRow {
        tenant_id: i64,
        permission_key: Text,
    }
}

/// Tenants of these connections.
pub(super) fn tenants(rows: &[SubjectRow]) -> Vec<i64> {
    let tenants: BTreeSet<i64> = rows.iter().filter_map(|r| r.connection.tenant()).collect();
    tenants.into_iter().collect()
}

/// Returns the connections with the permissions that are granted to their tenants.
pub(super) fn subjects(
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
