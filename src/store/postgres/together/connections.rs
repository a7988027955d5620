//! What checks start from, many at a time.

use crate::domain::{ConnectionId, RunId};
use crate::ports::store::StartingPoint;
use crate::store::error::from_sqlx;
use crate::store::postgres::connections::{connection_columns, credential_columns};
use crate::store::postgres::{PostgresStore, commit};
use crate::store::rows::ConnectionWithCredentialRow;
use crate::store::together::{Group, Ran, Together};
use sqlx::pool::PoolConnection;
use sqlx::{FromRow as _, Postgres, Row as _};
use std::collections::HashMap;

/// The newest credential, where another application's table allows several.
const START: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    ", l.operation_run_id AS latest_run_id \
      FROM provider_connections c \
      LEFT JOIN LATERAL (SELECT * FROM provider_credentials n \
                         WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true \
      LEFT JOIN verifyd.latest_reports l ON l.connection_id = c.id \
      WHERE c.id = ANY($1)"
);

pub(in crate::store::postgres) struct StartRequest(pub ConnectionId);

impl Together<PostgresStore> for StartRequest {
    /// None: there is no such connection.
    type Answer = Option<StartingPoint>;
    type On = PoolConnection<Postgres>;
    const NAME: &'static str = "starting_point";
    const LANES: usize = 1;

    fn keys(&self) -> Vec<(&'static str, i64)> {
        Vec::new()
    }

    fn group(store: &PostgresStore) -> &Group<Self, Self::Answer> {
        &store.starts
    }

    async fn run(
        store: &PostgresStore,
        mut connection: PoolConnection<Postgres>,
        calls: Vec<Self>,
    ) -> Ran<PostgresStore, Self> {
        let mut ids: Vec<i64> = calls.iter().map(|c| c.0.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut tx = store.begin_together(&mut connection).await?;
        let rows = store
            .sql(START)
            .bind(ids)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        let mut found: HashMap<i64, StartingPoint> = HashMap::with_capacity(rows.len());
        for row in rows {
            let latest: Option<i64> = row.try_get("latest_run_id").map_err(from_sqlx)?;
            let row = ConnectionWithCredentialRow::from_row(&row).map_err(from_sqlx)?;
            let (connection, credential) = row.try_into()?;
            let start = StartingPoint {
                connection,
                credential,
                latest_run: latest.map(RunId),
            };
            found.insert(start.connection.id.0, start);
        }
        let answers = calls
            .iter()
            .map(|c| Some(found.get(&c.0.0).cloned()))
            .collect();
        Ok((answers, Some(connection)))
    }
}
