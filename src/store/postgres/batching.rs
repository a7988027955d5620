//! What batches of PostgreSQL run on: see `store::batching`.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::batching::Batching;
use sqlx::pool::PoolConnection;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Postgres, SqlSafeStr as _, SqlStr, Transaction,
};
use std::sync::Arc;

/// Connections that the pool must have for batches to keep theirs.
const MIN_POOL_TO_KEEP: u32 = 8;

/// Batches for which a connection is kept at most.
const KEPT_FOR: u32 = 256;

/// What a batch sets besides the limits of every transaction.
///
/// It does not wait for long where somebody holds a row that one of its calls needs: then each is sent by
/// itself, and only that one waits.
///
/// Plans are made once, and always for long tables: one that was made while a table was short would
/// read all of it for ever. (A plan that cannot do without reading a table costs so much on paper that
/// it would be compiled.)
const SETTINGS: &str = "SET LOCAL lock_timeout = 250; SET LOCAL enable_seqscan = off;
                        SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_generic_plan";

/// Reports are compressed by PostgreSQL. With its other method that is a fifth of what a claim and a
/// completion cost. A column's own setting counts for more than this.
const COMPRESSION: &str = "; SET LOCAL default_toast_compression = lz4";

/// Whether the server has the method, and nobody has chosen another one.
const MAY_COMPRESS_WITH_LZ4: &str = "
    SELECT 'lz4' = ANY(enumvals) AND source = 'default' FROM pg_settings
    WHERE name = 'default_toast_compression'";

/// The status of a run, as a text that no index is about. A batch knows its runs by their ids. A server
/// whose statistics are of a time when hardly anything was queued takes the index of what is queued for a
/// short one, and would look for them by reading all of it, however long it is by now.
macro_rules! status {
    () => {
        "r.status || ''"
    };
}
pub(super) use status;

impl Batching for PostgresStore {
    type Connection = PoolConnection<Postgres>;

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.with_timeout(call).await
    }

    async fn acquire(&self) -> Result<Self::Connection, StoreError> {
        Ok(self.pool.acquire().await?)
    }

    /// The pool asks a connection that is given back whether it answers. Not where there are hardly
    /// any others, and not for ever, so that an old one is replaced.
    fn keeps_connection(&self, batches: u32) -> bool {
        self.pool.options().get_max_connections() >= MIN_POOL_TO_KEEP
            && !batches.is_multiple_of(KEPT_FOR)
            && !self.renewal.is_recent()
    }
}

impl PostgresStore {
    /// A transaction for a batch.
    pub(super) async fn begin_batch<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, StoreError> {
        // Not when the store is opened: behind a busy pooler that would have to wait for a connection.
        let begin = self
            .begin_batch
            .get_or_try_init(|| self.batch_beginning(connection))
            .await?
            .clone();
        Ok(connection.begin_with(begin).await?)
    }

    async fn batch_beginning(&self, connection: &mut PgConnection) -> Result<SqlStr, sqlx::Error> {
        let may_compress: Option<bool> = sqlx::query_scalar(MAY_COMPRESS_WITH_LZ4)
            .persistent(false)
            .fetch_optional(connection)
            .await?;
        let compression = if may_compress == Some(true) {
            COMPRESSION
        } else {
            ""
        };
        let begin = format!("{}; {SETTINGS}{compression}", self.begin.as_str());
        Ok(AssertSqlSafe(begin).into_sql_str())
    }
}
