//! Records runs.

use super::bounds::{connection_of_context, is_claimable};
use super::dialect::{each, now, own, run_type};
use super::onboarding::point_session;
use super::repeated_ids::has_own_id;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, transaction};
use super::statement::Sql;
use crate::domain::RunId;
use crate::ports::recording::{NewRun, Recorded, RecordingStore};
use crate::ports::store_error::{Code, Detail, StoreError};
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

/// An invalid run, which is never completed, is not regarded as active. Nor is, in PostgreSQL, a run whose context no
/// list looks into: it ends with `context_too_large`, and checks no connection.
const ACTIVE_RUN: Sql = both!(
    "SELECT r.id FROM operation_runs AS r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') AND " is_claimable!() " AND " has_own_id!("r") " AND "
    connection_of_context!("r.context")
    " = $1 AND r.workspace_id = $2 AND r.tenant_id IS NOT DISTINCT FROM $3 ORDER BY r.id DESC LIMIT 1"
);

/// Whether nothing has filled what is empty in a new run. Returned by an INSERT that leaves these columns out, which
/// takes no right to write them.
macro_rules! is_unfilled {
    ($($db:ident)?) => {
        "outcome IS NULL AND started_at IS NULL AND completed_at IS NULL"
    };
}
pub(super) use is_unfilled;

/// Records a run. `$columns` and `$values`: what an INSERT writes where a default of another application's table would
/// fill the row.
///
/// The caller sends the hint, so no notification is needed (PostgreSQL's migration 6): transactions that notify
/// commit one at a time.
macro_rules! insert_run {
    ($db:ident $columns:literal, $values:literal) => {
        sql_for!(
            $db "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at" $columns
            ") SELECT $1, $2, " run_type!() ", 'queued', $3, " now!() $values
            each!(" FROM set_config('verifyd.told', 'on', true)", "") " RETURNING id, " is_unfilled!()
        )
    };
}

pub(super) const INSERT_RUN: Sql = both!(insert_run!("", ""));

const INSERT_EMPTY_RUN: Sql = both!(insert_run!(
    ", outcome, started_at, completed_at",
    ", NULL, NULL, NULL"
));

/// The error of an INSERT that a trigger lets write nothing.
pub(super) fn kept_out() -> StoreError {
    let why = "a trigger keeps the row out of operation_runs";
    StoreError::Refused(Detail::new(why, Some(Code::Trigger)))
}

/// Why a run was not recorded.
pub(super) enum Unrecorded {
    /// A default, or a trigger, has filled the row, so that nobody could claim it.
    Filled,
    Store(StoreError),
}

impl From<StoreError> for Unrecorded {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unrecorded> for StoreError {
    fn from(unrecorded: Unrecorded) -> Self {
        match unrecorded {
            Unrecorded::Filled => {
                let why = "a trigger fills outcome, started_at or completed_at of a new run";
                Self::Refused(Detail::new(why, Some(Code::Trigger)))
            }
            Unrecorded::Store(error) => error,
        }
    }
}

/// An earlier run of the same id may have left a row.
const DELIVERED: Sql = both!(
    "INSERT INTO " own!(run_deliveries) " (run_id, delivered_at) VALUES ($1, " now!()
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL"
);

#[async_trait]
impl<S: SqlStore + RecordMany> RecordingStore for S {
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        let mut recorded = record(self, INSERT_RUN, new).await;
        if let Err(Unrecorded::Filled) = recorded {
            recorded = record(self, INSERT_EMPTY_RUN, new).await;
        }
        Ok(recorded?)
    }

    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        NewRun::plain(new)?;
        self.record_plain(new).await
    }
}

async fn record(
    store: &impl SqlStore,
    insert_run: Sql,
    new: &NewRun,
) -> Result<Recorded, Unrecorded> {
    transaction(store, async |tx| {
        let recorded = match active_run(tx, new).await? {
            Some(run_id) => Recorded {
                run_id,
                created: false,
            },
            None => Recorded {
                run_id: insert(tx, insert_run, new).await?,
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
pub(super) async fn insert(
    tx: &mut dyn SqlConnection,
    insert_run: Sql,
    new: &NewRun,
) -> Result<RunId, Unrecorded> {
    let insert = insert_run
        .bind(new.workspace_id.0)
        .bind(new.tenant_id.map(|t| t.0))
        .bind(&new.context);
    let recorded: Option<(i64, bool)> = insert.fetch_optional(tx).await?;
    let (id, is_unfilled) = recorded.ok_or_else(kept_out)?;
    if !is_unfilled {
        return Err(Unrecorded::Filled);
    }
    DELIVERED.bind(id).execute(tx).await?;
    Ok(RunId(id))
}
