//! One row per replica: a lease is alive while its worker beats.

use super::{PostgresStore, commit};
use crate::domain::WorkerId;
use crate::ports::store::{Beat, StoreError, WorkerRecord};
use crate::store::rows::{self, WorkerRow};
use sqlx::{ConnectOptions as _, Connection as _};

const BEAT: &str = "\
    INSERT INTO verifyd.workers (worker_id, version, concurrency, in_flight, started_at, beat_at) \
    VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp()) \
    ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version, \
        concurrency = excluded.concurrency, in_flight = excluded.in_flight, \
        beat_at = excluded.beat_at";

const RETIRE: &str = "DELETE FROM verifyd.workers WHERE worker_id = $1";

const WORKERS: &str = "\
    SELECT worker_id, version, concurrency::bigint AS concurrency, \
           in_flight::bigint AS in_flight, started_at, beat_at \
    FROM verifyd.workers WHERE beat_at >= now() - interval '1 day' ORDER BY started_at, worker_id";

impl PostgresStore {
    /// Over a connection of its own. It is put back only after a beat that got through: one that
    /// failed, or was given up by the caller, is replaced by the next beat.
    pub(super) async fn beat_worker(&self, beat: &Beat) -> Result<(), StoreError> {
        let mut heart = self.heart.lock().await;
        let mut connection = match heart.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let mut tx = connection.begin_with(self.begin.clone()).await?;
        self.sql(BEAT)
            .bind(&beat.worker_id.0)
            .bind(&beat.version)
            .bind(i32::try_from(beat.concurrency).unwrap_or(i32::MAX))
            .bind(i32::try_from(beat.in_flight).unwrap_or(i32::MAX))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        *heart = Some(connection);
        Ok(())
    }

    pub(super) async fn retire_worker(&self, worker: &WorkerId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        self.sql(RETIRE).bind(&worker.0).execute(&mut *tx).await?;
        commit(tx).await
    }

    pub(super) async fn list_workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<WorkerRow> = self.rows(WORKERS).fetch_all(&mut *tx).await?;
        commit(tx).await?;
        rows::all(found)
    }
}
