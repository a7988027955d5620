//! One row per replica: a lease is alive while its worker beats.

use super::{SqliteStore, commit, now, now_moved_by};
use crate::domain::WorkerId;
use crate::ports::store::{Beat, StoreError, WorkerRecord};
use crate::store::rows::{self, WorkerRow};

const BEAT: &str = concat!(
    "INSERT INTO verifyd_workers \
        (worker_id, version, concurrency, in_flight, started_at, beat_at) \
     VALUES ($1, $2, $3, $4, ",
    now!(),
    ", ",
    now!(),
    ") ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version, \
        concurrency = excluded.concurrency, in_flight = excluded.in_flight, \
        beat_at = excluded.beat_at"
);

const RETIRE: &str = "DELETE FROM verifyd_workers WHERE worker_id = $1";

const WORKERS: &str = concat!(
    "SELECT worker_id, version, concurrency, in_flight, started_at, beat_at \
     FROM verifyd_workers WHERE beat_at >= ",
    now_moved_by!("'-1 day'"),
    " ORDER BY started_at, worker_id"
);

impl SqliteStore {
    pub(super) async fn beat_worker(&self, beat: &Beat) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(BEAT)
            .bind(&beat.worker_id.0)
            .bind(&beat.version)
            .bind(beat.concurrency)
            .bind(beat.in_flight)
            .execute(&mut *tx)
            .await?;
        commit(tx).await
    }

    pub(super) async fn retire_worker(&self, worker: &WorkerId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(RETIRE)
            .bind(&worker.0)
            .execute(&mut *tx)
            .await?;
        commit(tx).await
    }

    pub(super) async fn list_workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let found: Vec<WorkerRow> = sqlx::query_as(WORKERS)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }
}
