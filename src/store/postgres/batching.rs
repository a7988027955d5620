//! The connections of batches in PostgreSQL: see `store::batching`.

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

/// Largest number of batches for which a connection is kept.
const KEPT_FOR: u32 = 256;

/// How long batches, claims and sweeps that queue runs again wait for a lock, in milliseconds.
pub(in crate::store) const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = 250";

/// Settings of a batch besides the limits of every transaction.
///
/// A batch waits only a short time for a lock, or for anything else: its calls are then sent separately.
///
/// Plans are made once, and always for long tables: a plan that was made while a table was short would read
/// all of it later.
const SETTINGS: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_generic_plan";

/// Compresses reports with lz4. PostgreSQL's default method takes a fifth of the time of a claim and a
/// completion. The setting of a column takes precedence.
const COMPRESSION: &str = "; SET LOCAL default_toast_compression = lz4";

/// Whether the server has the method, and no other one is configured.
const MAY_COMPRESS_WITH_LZ4: &str = "
    SELECT 'lz4' = ANY(enumvals) AND source = 'default' FROM pg_settings
    WHERE name = 'default_toast_compression'";

/// The status of a run, as an expression that no index covers. A batch knows its runs by their ids. With
/// statistics from a time when hardly anything was queued, a server would choose the index of queued runs and
/// read all of it, however long it is by then.
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
        let acquired = self.pooled().await;
        acquired.map_err(|error| self.refused(error))
    }

    /// The pool tests a connection that is returned. Not where there are few connections, and not for ever,
    /// so that an old one is replaced.
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
        // Not when the store is opened, which would wait for a connection behind a busy pooler.
        let begin = self
            .begin_batch
            .get_or_try_init(|| self.batch_beginning(connection))
            .await
            .map_err(|error| self.refused(error))?
            .clone();
        let begun = connection.begin_with(begin).await;
        begun.map_err(|error| self.refused(error))
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
        let begin = format!(
            "{}; SET LOCAL statement_timeout = {}; {LOCK_TIMEOUT}; {SETTINGS}{compression}",
            self.begin.as_str(),
            self.batch_timeout.as_millis()
        );
        Ok(AssertSqlSafe(begin).into_sql_str())
    }
}
