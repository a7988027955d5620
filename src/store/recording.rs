//! Records runs.

use super::bounds::{connection_of_context, is_claimable};
use super::dialect::{each, now, own, run_type};
use super::onboarding::point_session;
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, transaction};
use super::statement::Sql;
use crate::domain::RunId;
use crate::ports::recording::{NewRun, Recorded, RecordingStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// How each database records many runs.
#[async_trait]
pub(super) trait RecordMany {
    /// Returns the ids in the order of the runs.
    async fn record_plain(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError>;
}

/// Held until the transaction ends, to serialise callers for one connection. SQLite has nothing to wait for.
const LOCK_CONNECTION: Sql = both!(
    "SELECT " each!("pg_advisory_xact_lock(hashtextextended('verifyd.record.' || $1::text, 0))", "$1")
);

/// An invalid run, which is never completed, is not regarded as active.
const ACTIVE_RUN: Sql = both!(
    "SELECT r.id FROM operation_runs AS r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') AND " is_claimable!() " AND "
    connection_of_context!("r.context")
    " = $1 AND r.workspace_id = $2 AND r.tenant_id IS NOT DISTINCT FROM $3 ORDER BY r.id DESC LIMIT 1"
);

/// The caller sends the hint, so no notification is needed (PostgreSQL's migration 6): transactions that notify
/// commit one at a time.
const INSERT_RUN: Sql = both!(
    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
     SELECT $1, $2, " run_type!() ", 'queued', $3, " now!()
    each!(" FROM set_config('verifyd.told', 'on', true)", "") " RETURNING id"
);

/// An earlier run of the same id may have left a row.
const DELIVERED: Sql = both!(
    "INSERT INTO " own!(run_deliveries) " (run_id, delivered_at) VALUES ($1, " now!()
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL"
);

#[async_trait]
impl<S: SqlStore + RecordMany> RecordingStore for S {
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        transaction(self, async |tx| {
            let recorded = match active_run(tx, new).await? {
                Some(run_id) => Recorded {
                    run_id,
                    created: false,
                },
                None => Recorded {
                    run_id: insert(tx, new).await?,
                    created: true,
                },
            };
            if let Some(session) = new.onboarding_session {
                point_session(tx, session, new, recorded.run_id, recorded.created).await?;
            }
            Ok(recorded)
        })
        .await
    }

    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        NewRun::plain(new)?;
        self.record_plain(new).await
    }
}

/// The active run of the connection of which there must be no other. It stays the only one until the
/// transaction ends.
async fn active_run(tx: &mut dyn SqlConnection, new: &NewRun) -> Result<Option<RunId>, StoreError> {
    let Some(connection) = new.unless_active else {
        return Ok(None);
    };
    LOCK_CONNECTION.bind(connection.0).execute(tx).await?;
    let active = ACTIVE_RUN
        .bind(connection.to_string())
        .bind(new.workspace_id.0)
        .bind(new.tenant_id.map(|t| t.0));
    let active: Option<(i64,)> = active.fetch_optional(tx).await?;
    Ok(active.map(|(id,)| RunId(id)))
}

/// Records one run as dispatched.
pub(super) async fn insert(tx: &mut dyn SqlConnection, new: &NewRun) -> Result<RunId, StoreError> {
    let insert = INSERT_RUN
        .bind(new.workspace_id.0)
        .bind(new.tenant_id.map(|t| t.0))
        .bind(&new.context);
    let (id,): (i64,) = insert.fetch_one(tx).await?;
    DELIVERED.bind(id).execute(tx).await?;
    Ok(RunId(id))
}
