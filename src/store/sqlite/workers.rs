//! One row per replica: a lease is alive while its worker sends heartbeats.

use super::{SqliteStore, now, now_moved_by};
use crate::domain::WorkerId;
use crate::ports::store_error::StoreError;
use crate::ports::workers::{Heartbeat, WorkerRecord, WorkerStore};
use crate::store::rows::{self, WorkerRow};
use crate::store::sql::sql;
use async_trait::async_trait;

const BEAT: &str = sql!(
    "INSERT INTO verifyd_workers
        (worker_id, version, concurrency, in_flight, started_at, beat_at)
     VALUES ($1, $2, $3, $4, " now!() ", " now!()
    ") ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version,
        concurrency = excluded.concurrency, in_flight = excluded.in_flight,
        beat_at = excluded.beat_at"
);

const RETIRE: &str = "DELETE FROM verifyd_workers WHERE worker_id = $1";

const WORKERS: &str = sql!(
    "SELECT worker_id, version, concurrency, in_flight, started_at, beat_at
     FROM verifyd_workers WHERE beat_at >= " now_moved_by!("'-1 day'") " ORDER BY started_at, worker_id"
);

#[async_trait]
impl WorkerStore for SqliteStore {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let query = sqlx::query(BEAT)
            .bind(&heartbeat.worker_id.0)
            .bind(&heartbeat.version)
            .bind(heartbeat.concurrency)
            .bind(heartbeat.in_flight);
        self.execute(query).await?;
        Ok(())
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.execute(sqlx::query(RETIRE).bind(&worker.0)).await?;
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let found: Vec<WorkerRow> = sqlx::query_as(WORKERS)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }
}
