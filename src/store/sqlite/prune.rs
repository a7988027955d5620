//! Deletes completed runs that are old enough.

use super::bounds::time;
use super::{SqliteStore, earlier, id_list, now, now_moved_by, run_type};
use crate::domain::RunId;
use crate::ports::retention::{PrunePolicy, Pruned, RetentionStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::SqliteConnection;
use std::time::Duration;

/// `$1`: the age. Runs that an onboarding session points to are kept, and so are runs with an acknowledgement
/// that still applies.
macro_rules! prunable {
    () => {
        $crate::store::sql::sql!(
            " FROM operation_runs WHERE type = " run_type!() " AND status = 'completed' AND "
            time!("completed_at") " < " now_moved_by!("$1")
            " AND id NOT IN (SELECT operation_run_id FROM verifyd_latest_reports)
              AND CAST(id AS TEXT) NOT IN (
                  SELECT CAST(state ->> 'verification_operation_run_id' AS TEXT)
                  FROM tenant_onboarding_sessions
                  WHERE state ->> 'verification_operation_run_id' IS NOT NULL)
              AND NOT EXISTS (SELECT 1 FROM verifyd_carried_acknowledgements k
                  JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
                  WHERE k.from_run_id = operation_runs.id AND k.lapsed_at IS NULL
                    AND a.withdrawn_at IS NULL
                    AND (a.expires_at IS NULL OR a.expires_at > " now!() "))"
        )
    };
}

const COUNT: &str = sql!("SELECT count(*)" prunable!());

const CHOOSE: &str = sql!("SELECT id" prunable!() " AND id > $2 ORDER BY id LIMIT $3");

const CARRIED: &str = "
    DELETE FROM verifyd_carried_acknowledgements
    WHERE from_run_id IN (SELECT value FROM json_each($1))";
const ACTORS: &str = "
    DELETE FROM verifyd_acknowledgement_actors
    WHERE operation_run_id IN (SELECT value FROM json_each($1))";
const ACKNOWLEDGEMENTS: &str = "
    DELETE FROM verification_check_acknowledgements
    WHERE operation_run_id IN (SELECT value FROM json_each($1))";
const ATTEMPTS: &str =
    "DELETE FROM verifyd_run_attempts WHERE run_id IN (SELECT value FROM json_each($1))";
const DELIVERIES: &str =
    "DELETE FROM verifyd_run_deliveries WHERE run_id IN (SELECT value FROM json_each($1))";
const RUNS: &str = "DELETE FROM operation_runs WHERE id IN (SELECT value FROM json_each($1))";

/// Runs that are not there, whatever type they were of. An open attempt is ended by the sweep first.
const STRAY_ATTEMPTS: &str = "
    DELETE FROM verifyd_run_attempts WHERE (run_id, attempt) IN (
        SELECT s.run_id, s.attempt FROM verifyd_run_attempts s
        WHERE s.run_id > $1 AND s.ended_at IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = s.run_id)
        ORDER BY s.run_id, s.attempt LIMIT $2)
    RETURNING run_id";

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn prune(
        &self,
        policy: &PrunePolicy,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.transaction(async |tx| {
            let ids: Vec<i64> = sqlx::query_scalar(CHOOSE)
                .bind(earlier(policy.older_than))
                .bind(after.map_or(i64::MIN, |id| id.0))
                .bind(i64::from(policy.batch))
                .fetch_all(&mut *tx)
                .await?;
            delete(tx, CARRIED, &ids).await?;
            delete(tx, ACTORS, &ids).await?;
            let pruned = Pruned {
                acknowledgements: delete(tx, ACKNOWLEDGEMENTS, &ids).await?,
                attempts: delete(tx, ATTEMPTS, &ids).await?,
                deliveries: delete(tx, DELIVERIES, &ids).await?,
                runs: delete(tx, RUNS, &ids).await?,
                last: ids.last().map(|id| RunId(*id)),
            };
            Ok(pruned)
        })
        .await
    }

    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.transaction(async |tx| {
            let gone: Vec<i64> = sqlx::query_scalar(STRAY_ATTEMPTS)
                .bind(after.map_or(i64::MIN, |id| id.0))
                .bind(i64::from(batch))
                .fetch_all(&mut *tx)
                .await?;
            Ok(Pruned::stray_attempts(&gone))
        })
        .await
    }

    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(COUNT)
            .bind(earlier(older_than))
            .fetch_one(&mut *self.reader().await?)
            .await?;
        Ok(count.unsigned_abs())
    }
}

async fn delete(
    tx: &mut SqliteConnection,
    statement: &'static str,
    ids: &[i64],
) -> Result<u64, StoreError> {
    let done = sqlx::query(statement)
        .bind(id_list(ids))
        .execute(&mut *tx)
        .await;
    Ok(done?.rows_affected())
}
