//! One row per replica: a lease is alive while its worker sends heartbeats.

use super::PostgresStore;
use crate::domain::WorkerId;
use crate::ports::store_error::StoreError;
use crate::ports::workers::{Heartbeat, WorkerRecord, WorkerStore};
use crate::store::rows::{self, WorkerRow};
use async_trait::async_trait;
use sqlx::{ConnectOptions as _, Connection as _};

const BEAT: &str = "
    INSERT INTO verifyd.workers (worker_id, version, concurrency, in_flight, started_at, beat_at)
    VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp())
    ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version,
        concurrency = excluded.concurrency, in_flight = excluded.in_flight,
        beat_at = excluded.beat_at";

const RETIRE: &str = "DELETE FROM verifyd.workers WHERE worker_id = $1";

const WORKERS: &str = "
    SELECT worker_id, version, concurrency::bigint AS concurrency,
           in_flight::bigint AS in_flight, started_at, beat_at
    FROM verifyd.workers WHERE beat_at >= now() - interval '1 day' ORDER BY started_at, worker_id";

#[async_trait]
impl WorkerStore for PostgresStore {
    /// Over a connection of its own. It is put back only after a heartbeat that got through: one that
    /// failed, or was given up by the caller, is replaced by the next one.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        self.with_timeout(async {
            let mut kept = self.heartbeat_connection.lock().await;
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.options.connect().await?,
            };
            let mut tx = connection.begin_with(self.begin.clone()).await?;
            self.sql(BEAT)
                .bind(&heartbeat.worker_id.0)
                .bind(&heartbeat.version)
                .bind(i32::try_from(heartbeat.concurrency).unwrap_or(i32::MAX))
                .bind(i32::try_from(heartbeat.in_flight).unwrap_or(i32::MAX))
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            *kept = Some(connection);
            Ok(())
        })
        .await
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.execute(self.sql(RETIRE).bind(&worker.0)).await?;
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let found: Vec<WorkerRow> = self.fetch_all(self.rows(WORKERS)).await?;
        rows::all(found)
    }
}
