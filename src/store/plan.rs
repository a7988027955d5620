//! What both databases share of the reads for plans.

use super::from_row::from_row;
use super::lenient::{Text, Time};
use super::rows::ConnectionRow;
use super::starting_point::FactsPart;
use crate::domain::ConnectionId;
use crate::domain::connection::ProviderConnection;
use crate::domain::plan::{PlanSubject, StoredGrants};
use crate::ports::store_error::StoreError;
use sqlx::{FromRow, Row};
use std::collections::{BTreeSet, HashMap};

/// A connection, and how its tenant's inventory was read; all NULL where it never was.
#[derive(Debug)]
pub(super) struct SubjectRow {
    connection: ConnectionRow,
    read: ReadPart,
    facts: FactsPart,
}

from_row! {
    #[derive(Debug)]
    struct ReadPart {
        inventory_read_at: Option<Time>,
        inventory_source: Option<Text>,
        read_by: Option<Text>,
    }
}

impl<'r, R: Row> FromRow<'r, R> for SubjectRow
where
    ConnectionRow: FromRow<'r, R>,
    ReadPart: FromRow<'r, R>,
    FactsPart: FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self {
            connection: ConnectionRow::from_row(row)?,
            read: ReadPart::from_row(row)?,
            facts: FactsPart::from_row(row)?,
        })
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

/// The connections with what is granted to their tenants.
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
            let SubjectRow {
                connection,
                read,
                facts,
            } = row;
            let connection: ProviderConnection = connection.try_into()?;
            let known = facts.kept(connection.id)?.map(|kept| {
                let changed = kept.credential_changed_at;
                kept.still_true(&connection, changed)
            });
            let granted = by_tenant.get(&connection.tenant_id.0);
            let grants = read.inventory_source.map(|source| StoredGrants {
                read_at: read.inventory_read_at.and_then(Time::known),
                source: source.0.parse().ok(),
                read_by: read.read_by.map(|id| {
                    // What is no id belongs to no connection.
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
