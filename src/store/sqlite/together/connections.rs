//! What checks start from, many at a time.

use super::list;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store::{StartingPoint, StoreError};
use crate::store::facts::{FactsPart, facts_columns};
use crate::store::rows::ConnectionWithCredentialRow;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::bounds::short;
use crate::store::sqlite::connections::{connection_columns, credential_columns};
use crate::store::sqlite::earlier::{carries_fingerprint, latest_report_of_connection};
use crate::store::together::{Group, Ran, Together};
use sqlx::pool::PoolConnection;
use sqlx::{FromRow as _, Row as _, Sqlite};
use std::collections::{HashMap, HashSet};

const START: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    ", l.operation_run_id AS latest_run_id, ",
    facts_columns!(),
    " \
      FROM json_each($1) w CROSS JOIN provider_connections c ON c.id = w.value \
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id \
      LEFT JOIN verifyd_connection_facts f ON f.connection_id = c.id \
      LEFT JOIN ",
    latest_report_of_connection!(carries_fingerprint!()),
);

pub(in crate::store::sqlite) struct StartRequest(pub ConnectionId);

impl Together<SqliteStore> for StartRequest {
    /// None: there is no such connection.
    type Answer = Option<StartingPoint>;
    type On = PoolConnection<Sqlite>;
    const NAME: &'static str = "starting_point";
    const LANES: usize = 1;

    fn keys(&self) -> Vec<(&'static str, i64)> {
        Vec::new()
    }

    fn group(store: &SqliteStore) -> &Group<Self, Self::Answer> {
        &store.starts
    }

    async fn run(
        _: &SqliteStore,
        mut connection: PoolConnection<Sqlite>,
        calls: Vec<Self>,
    ) -> Ran<SqliteStore, Self> {
        let mut ids: Vec<i64> = calls.iter().map(|c| c.0.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = sqlx::query(START)
            .bind(list(ids.iter())?)
            .fetch_all(&mut *connection)
            .await?;
        let mut found: HashMap<i64, StartingPoint> = HashMap::with_capacity(rows.len());
        let mut unreadable: HashSet<i64> = HashSet::new();
        for row in rows {
            let id: i64 = row.try_get("id")?;
            let latest: Option<i64> = row.try_get("latest_run_id")?;
            let facts = FactsPart::from_row(&row)?;
            let row = ConnectionWithCredentialRow::from_row(&row)?;
            match row.try_into() {
                Ok((connection, credential)) => {
                    let start = StartingPoint {
                        facts: facts.kept(ConnectionId(id))?,
                        connection,
                        credential,
                        latest_run: latest.map(RunId),
                    };
                    found.insert(id, start);
                }
                // Asked for alone it is told what is wrong.
                Err(StoreError::Corrupt { .. }) => {
                    unreadable.insert(id);
                }
                Err(error) => return Err(error),
            }
        }
        let answers = calls
            .iter()
            .map(|c| (!unreadable.contains(&c.0.0)).then(|| found.get(&c.0.0).cloned()))
            .collect();
        Ok((answers, Some(connection)))
    }
}
