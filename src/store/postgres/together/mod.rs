//! Calls that share a transaction: see `store::together`.
//!
//! A batch never waits for a lock that somebody else holds on a run.

mod claims;
mod completions;

pub(super) use claims::ClaimRequest;
pub(super) use completions::CompletionRequest;

use super::{InTx, PostgresStore};
use crate::ports::store::StoreError;
use crate::store::together::{Batching, Places};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, SqlSafeStr as _, SqlStr};
use std::sync::Arc;

/// Connections that the pool must have for lanes to keep theirs.
const KEEPING_TAKES: u32 = 8;

/// Batches for which a connection is kept at most.
const KEPT_FOR: u32 = 256;

/// What a batch sets besides the limits of every transaction.
///
/// It does not wait for long where somebody holds a row that one of its calls needs: then each goes
/// alone, and only that one waits.
///
/// Plans are made once, and always for long tables: one that was made while a table was short would
/// read all of it for ever. (A plan that cannot do without reading a table costs so much on paper that
/// it would be compiled.)
const SETTINGS: &str = "SET LOCAL lock_timeout = 250; \
                                   SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
                                   SET LOCAL plan_cache_mode = force_generic_plan";

/// Reports are compressed by PostgreSQL. With its other method that is a fifth of what a claim and a
/// completion cost. A column's own setting counts for more than this.
const COMPRESSION: &str = "; SET LOCAL default_toast_compression = lz4";

/// Whether the server has the method, and nobody has chosen another one.
async fn may_compress_with_lz4(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let may: Option<bool> = sqlx::query_scalar(
        "SELECT 'lz4' = ANY(enumvals) AND source = 'default' FROM pg_settings \
         WHERE name = 'default_toast_compression'",
    )
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    Ok(may.unwrap_or(false))
}

/// The status of a run, as a text that no index is about. A batch knows its runs by their ids. A server
/// whose statistics are of a time when hardly anything was queued takes the index of what is queued for a
/// short one, and would look for them by reading all of it, however long it is by now.
macro_rules! status {
    () => {
        "r.status || ''"
    };
}

use status;

impl Batching for PostgresStore {
    fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn in_time<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.in_time(call).await
    }
}

impl Places<PoolConnection<Postgres>> for PostgresStore {
    async fn place(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        Ok(self.pool.acquire().await?)
    }

    /// The pool asks a connection that is given back whether it answers. Not where there are hardly
    /// more than lanes, and not for ever, so that an old one is replaced.
    fn keeps(&self, batches: u32) -> bool {
        self.pool.options().get_max_connections() >= KEEPING_TAKES
            && !batches.is_multiple_of(KEPT_FOR)
            && !self.renewal.is_recent()
    }
}

impl PostgresStore {
    /// A transaction for a batch.
    async fn begin_together<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<InTx<'c>, StoreError> {
        // Not when the store is opened: behind a busy pooler that would have to wait for a connection.
        let begin = self
            .begin_together
            .get_or_try_init(|| self.together_beginning(connection))
            .await?
            .clone();
        Ok(connection.begin_with(begin).await?)
    }

    async fn together_beginning(
        &self,
        connection: &mut PgConnection,
    ) -> Result<SqlStr, sqlx::Error> {
        let compression = match may_compress_with_lz4(connection).await? {
            true => COMPRESSION,
            false => "",
        };
        let begin = format!("{}; {SETTINGS}{compression}", self.begin.as_str());
        Ok(AssertSqlSafe(begin).into_sql_str())
    }
}
