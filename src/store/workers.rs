//! One row per replica: a lease is alive while its worker sends heartbeats.

use super::dialect::{a_day_ago, clock, own};
use super::rows::{self, WorkerRow};
use super::sql::both;
use super::sql_store::{SqlStore, execute, fetch_all};
use super::statement::{Sql, Statement};
use crate::domain::WorkerId;
use crate::ports::store_error::StoreError;
use crate::ports::workers::{Heartbeat, WorkerRecord, WorkerStore};
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// How each database writes a heartbeat.
#[async_trait]
pub(super) trait HeartbeatWriter {
    /// Executes `HEARTBEAT`. Returns the time that it wrote.
    async fn write_heartbeat(&self, heartbeat: Statement) -> Result<(DateTime<Utc>,), StoreError>;
}

const HEARTBEAT: Sql = both!(
    "INSERT INTO " own!(workers) "
        (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ($1, $2, $3, $4, " clock!() ", " clock!()
    ") ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version,
        concurrency = excluded.concurrency, in_flight = excluded.in_flight,
        beat_at = excluded.beat_at
     RETURNING beat_at"
);

const RETIRE: Sql = both!("DELETE FROM " own!(workers) " WHERE worker_id = $1");

const WORKERS: Sql = both!(
    "SELECT worker_id, version, CAST(concurrency AS bigint) AS concurrency,
            CAST(in_flight AS bigint) AS in_flight, started_at, beat_at AS last_heartbeat_at
     FROM " own!(workers) " WHERE beat_at >= " a_day_ago!() " ORDER BY started_at, worker_id"
);

#[async_trait]
impl<S: SqlStore + HeartbeatWriter> WorkerStore for S {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<DateTime<Utc>, StoreError> {
        let statement = HEARTBEAT
            .bind(&heartbeat.worker_id.0)
            .bind(&heartbeat.version)
            .bind(i32::try_from(heartbeat.concurrency).unwrap_or(i32::MAX))
            .bind(i32::try_from(heartbeat.in_flight).unwrap_or(i32::MAX));
        let (written_at,) = self.write_heartbeat(statement).await?;
        Ok(written_at)
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        execute(self, RETIRE.bind(&worker.0)).await?;
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        rows::all(fetch_all::<WorkerRow>(self, WORKERS).await?)
    }
}
