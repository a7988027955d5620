//! Deletes completed runs that are old enough.

use super::bounds::{end, time};
use super::dialect::{among, before, each, now, own, postgres_only, run_type};
use super::postgres::{ADVISORY_PRUNE, ADVISORY_SPACE};
use super::repeated_ids::has_own_id_by_columns;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, read, transaction};
use super::statement::{Sql, earlier};
use crate::domain::RunId;
use crate::ports::retention::{PrunePolicy, Pruned, RetentionStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// `$1`: the age. Runs that an onboarding session points to are kept, and so are runs with an acknowledgement
/// that still applies.
macro_rules! prunable {
    ($db:ident) => {
        sql_for!(
            $db " FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'completed' AND ("
            time!("r.completed_at") ") < " before!("$1")
            " AND r.id NOT IN (SELECT operation_run_id FROM " own!(latest_reports) ")
              AND CAST(r.id AS text) NOT IN (
                  SELECT CAST(s.state ->> 'verification_operation_run_id' AS text)
                  FROM tenant_onboarding_sessions s
                  WHERE " each!(
                      "CASE WHEN pg_column_size(s.state -> 'verification_operation_run_id') <= 64
                           THEN s.state ->> 'verification_operation_run_id' END IS NOT NULL",
                      "s.state ->> 'verification_operation_run_id' IS NOT NULL"
                  ) ")
              AND NOT EXISTS (SELECT 1 FROM " own!(carried_acknowledgements) " k
                  JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
                  WHERE k.from_run_id = r.id AND k.lapsed_at IS NULL AND a.withdrawn_at IS NULL
                    AND (a.expires_at IS NULL OR " end!("a.expires_at") " > " now!() ")) AND " has_own_id_by_columns!("r")
        )
    };
}

const COUNT: Sql = both!("SELECT count(*)" prunable!());

/// Nobody acknowledges while runs are being deleted: that would be left without its run. SQLite has nothing to
/// wait for.
const EXCLUDE_ACKNOWLEDGING: Sql = both!(
    "SELECT " each!("pg_advisory_xact_lock($1::integer, $2::integer)", "$1, $2")
);

/// A locked run is left for the next time.
const CHOOSE: Sql = both!(
    "SELECT r.id" prunable!() " AND r.id > $2 ORDER BY r.id LIMIT $3"
    postgres_only!(" FOR UPDATE OF r SKIP LOCKED")
);

/// Whatever may refer to the run goes before it.
const CARRIED: Sql =
    both!("DELETE FROM " own!(carried_acknowledgements) " WHERE from_run_id " among!("$1"));
const ACTORS: Sql =
    both!("DELETE FROM " own!(acknowledgement_actors) " WHERE operation_run_id " among!("$1"));
const ACKNOWLEDGEMENTS: Sql =
    both!("DELETE FROM verification_check_acknowledgements WHERE operation_run_id " among!("$1"));
const ATTEMPTS: Sql = both!("DELETE FROM " own!(run_attempts) " WHERE run_id " among!("$1"));
const DELIVERIES: Sql = both!("DELETE FROM " own!(run_deliveries) " WHERE run_id " among!("$1"));
const RUNS: Sql = both!(
    "DELETE FROM operation_runs WHERE id " among!("$1") " AND status = 'completed' AND type = " run_type!()
);

/// Runs that are not there, whatever type they were of. An open attempt is ended by the sweep first.
const STRAY_ATTEMPTS: Sql = both!(
    "DELETE FROM " own!(run_attempts) " WHERE (run_id, attempt) IN (
        SELECT s.run_id, s.attempt FROM " own!(run_attempts) " s
        WHERE s.run_id > $1 AND s.ended_at IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = s.run_id)
        ORDER BY s.run_id, s.attempt LIMIT $2)
     RETURNING run_id"
);

#[async_trait]
impl<S: SqlStore> RetentionStore for S {
    async fn prune(
        &self,
        policy: &PrunePolicy,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        transaction(self, async |tx| {
            let exclude = EXCLUDE_ACKNOWLEDGING.bind(ADVISORY_SPACE);
            exclude.bind(ADVISORY_PRUNE).execute(tx).await?;
            let choose = CHOOSE
                .bind(earlier(policy.older_than))
                .bind(after.map_or(i64::MIN, |id| id.0))
                .bind(policy.batch);
            let ids = choose.fetch_ids(tx).await?;
            delete(tx, CARRIED, &ids).await?;
            delete(tx, ACTORS, &ids).await?;
            Ok(Pruned {
                acknowledgements: delete(tx, ACKNOWLEDGEMENTS, &ids).await?,
                attempts: delete(tx, ATTEMPTS, &ids).await?,
                deliveries: delete(tx, DELIVERIES, &ids).await?,
                runs: delete(tx, RUNS, &ids).await?,
                last: ids.last().map(|id| RunId(*id)),
            })
        })
        .await
    }

    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError> {
        let stray = STRAY_ATTEMPTS
            .bind(after.map_or(i64::MIN, |id| id.0))
            .bind(batch);
        let gone = transaction(self, async |tx| stray.fetch_ids(tx).await).await?;
        Ok(Pruned::stray_attempts(&gone))
    }

    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError> {
        let count = COUNT.bind(earlier(older_than));
        let (count,): (i64,) = read(self, async |tx| count.fetch_one(tx).await).await?;
        Ok(count.unsigned_abs())
    }
}

async fn delete(tx: &mut dyn SqlConnection, sql: Sql, ids: &[i64]) -> Result<u64, StoreError> {
    sql.bind(ids).execute(tx).await
}
