//! Deletes completed runs that are old enough.

use super::bounds::time;
use super::{ADVISORY_PRUNE, ADVISORY_SPACE, PostgresStore, run_type, seconds};
use crate::domain::RunId;
use crate::ports::retention::{PrunePolicy, Pruned, RetentionStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::PgConnection;
use std::time::Duration;

/// `$1`: the age in seconds. Runs that an onboarding session points to are kept, and so are runs with an
/// acknowledgement that still applies.
macro_rules! prunable {
    () => {
        $crate::store::sql::sql!(
            " FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'completed' AND ("
            time!("r.completed_at") ") < now() - make_interval(secs => $1)
              AND r.id NOT IN (SELECT operation_run_id FROM verifyd.latest_reports)
              AND r.id::text NOT IN (SELECT s.state ->> 'verification_operation_run_id'
                  FROM tenant_onboarding_sessions s
                  WHERE s.state ->> 'verification_operation_run_id' IS NOT NULL)
              AND NOT EXISTS (SELECT FROM verifyd.carried_acknowledgements k
                  JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
                  WHERE k.from_run_id = r.id AND k.lapsed_at IS NULL
                    AND a.withdrawn_at IS NULL
                    AND (a.expires_at IS NULL OR a.expires_at::timestamptz > now()))"
        )
    };
}

const COUNT: &str = sql!("SELECT count(*)" prunable!());

/// Nobody acknowledges while runs are being deleted: that would be left without its run.
const EXCLUDE_ACKNOWLEDGING: &str = "SELECT pg_advisory_xact_lock($1, $2)";

/// A locked run is left for the next time.
const CHOOSE: &str = sql!(
    "SELECT r.id" prunable!() " AND r.id > $2 ORDER BY r.id LIMIT $3 FOR UPDATE OF r SKIP LOCKED"
);

/// Whatever may refer to the run goes before it.
const CARRIED: &str = "DELETE FROM verifyd.carried_acknowledgements WHERE from_run_id = ANY($1)";
const ACTORS: &str = "DELETE FROM verifyd.acknowledgement_actors WHERE operation_run_id = ANY($1)";
const ACKNOWLEDGEMENTS: &str =
    "DELETE FROM verification_check_acknowledgements WHERE operation_run_id = ANY($1)";
const ATTEMPTS: &str = "DELETE FROM verifyd.run_attempts WHERE run_id = ANY($1)";
const DELIVERIES: &str = "DELETE FROM verifyd.run_deliveries WHERE run_id = ANY($1)";
const RUNS: &str = sql!(
    "DELETE FROM operation_runs WHERE id = ANY($1) AND status = 'completed' AND type = " run_type!()
);

/// Runs that are not there, whatever type they were of. An open attempt is ended by the sweep first.
const STRAY_ATTEMPTS: &str = "
    DELETE FROM verifyd.run_attempts a USING (
        SELECT s.run_id, s.attempt FROM verifyd.run_attempts s
        WHERE s.run_id > $1 AND s.ended_at IS NOT NULL
              AND NOT EXISTS (SELECT FROM operation_runs r WHERE r.id = s.run_id)
        ORDER BY s.run_id, s.attempt LIMIT $2
    ) s
    WHERE a.run_id = s.run_id AND a.attempt = s.attempt RETURNING a.run_id";

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn prune(
        &self,
        policy: &PrunePolicy,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        self.transaction(async |tx| {
            self.sql(EXCLUDE_ACKNOWLEDGING)
                .bind(ADVISORY_SPACE)
                .bind(ADVISORY_PRUNE)
                .execute(&mut *tx)
                .await?;
            let ids: Vec<i64> = self
                .scalar(CHOOSE)
                .bind(seconds(policy.older_than))
                .bind(after.map_or(i64::MIN, |id| id.0))
                .bind(i64::from(policy.batch))
                .fetch_all(&mut *tx)
                .await?;
            self.delete(tx, CARRIED, &ids).await?;
            self.delete(tx, ACTORS, &ids).await?;
            let pruned = Pruned {
                acknowledgements: self.delete(tx, ACKNOWLEDGEMENTS, &ids).await?,
                attempts: self.delete(tx, ATTEMPTS, &ids).await?,
                deliveries: self.delete(tx, DELIVERIES, &ids).await?,
                runs: self.delete(tx, RUNS, &ids).await?,
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
            let gone: Vec<i64> = self
                .scalar(STRAY_ATTEMPTS)
                .bind(after.map_or(i64::MIN, |id| id.0))
                .bind(i64::from(batch))
                .fetch_all(&mut *tx)
                .await?;
            Ok(Pruned::stray_attempts(&gone))
        })
        .await
    }

    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.transaction(async |tx| {
            let count: i64 = self
                .scalar(COUNT)
                .bind(seconds(older_than))
                .fetch_one(&mut *tx)
                .await?;
            Ok(count.unsigned_abs())
        })
        .await
    }
}

impl PostgresStore {
    async fn delete(
        &self,
        tx: &mut PgConnection,
        statement: &'static str,
        ids: &[i64],
    ) -> Result<u64, StoreError> {
        let done = self.sql(statement).bind(ids).execute(&mut *tx).await;
        Ok(done?.rows_affected())
    }
}
