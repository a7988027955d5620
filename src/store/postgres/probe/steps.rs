//! The steps of `serve` with a run as `doctor` tries them, and what may refuse them.

use crate::domain::ConnectionId;
use crate::ports::claims::Claim;
use crate::ports::store_error::StoreError;
use crate::store::claims::ClaimRequest;
use crate::store::completion::{Completed, CompletionRequest, InventoryRow};
use crate::store::postgres::inspect::UNNAMED;
use crate::store::postgres::{ADVISORY_SPACE, PostgresStore};
use crate::store::probe::RunSteps;
use crate::store::sql_store::SqlConnection;
use crate::store::statement::Sql;
use async_trait::async_trait;
use sqlx::postgres::PgConnection;

/// Triggers of the application on runs, and whether INSERTs and whether UPDATEs fire them: also those of the rows of one
/// partition (`tgtype & 1`), which are no copies of one of the table.
const TRIGGERS: &str = r"
    SELECT t.tgname::text, bool_or(t.tgtype & 4 <> 0), bool_or(t.tgtype & 16 <> 0) FROM pg_trigger t
    WHERE (t.tgrelid = to_regclass('operation_runs') OR t.tgtype & 1 <> 0 AND t.tgparentid = 0
            AND t.tgrelid IN (SELECT p.relid FROM pg_partition_tree(to_regclass('operation_runs')) AS p))
      AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgname NOT LIKE 'verifyd\_%'
    GROUP BY 1 ORDER BY 1";

/// Rules of the application that rewrite INSERTs (ev_type 3) and UPDATEs (2) of its tables, or of views in their place, and
/// whether it is the former.
const RULES: &str = "
    SELECT c.relname::text, quote_ident(w.rulename), w.ev_type = '3'
    FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class
    WHERE c.oid IN (to_regclass('operation_runs'), to_regclass('tenant_permissions'))
      AND w.ev_type IN ('2', '3') AND w.ev_enabled IN ('O', 'A') ORDER BY 1, 2";

/// Whether this transaction, or another one, holds a lock without which `verifyd.notify_queued` (migration 6) does not
/// notify; NULL: none does. `$1`: the number before those of all locks.
const NOTIFYING: &str = "
    SELECT bool_or(pid = pg_backend_pid()) FROM pg_locks
    WHERE locktype = 'advisory' AND classid::bigint = $1::int AND objid IN (10, 11) AND objsubid = 2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// insufficient_privilege
const MAY_NOT: &str = "42501";
/// unique_violation: the application allows one run of a connection at a time, and one is there.
const NOT_UNIQUE: &str = "23505";
/// not_null_violation
const NOT_NULL: &str = "23502";

/// A run in a transaction that is rolled back.
pub(super) struct Steps<'a> {
    pub(super) store: &'a PostgresStore,
    pub(super) tx: &'a mut PgConnection,
}

#[async_trait]
impl RunSteps for Steps<'_> {
    fn connection(&mut self) -> Box<dyn SqlConnection + '_> {
        Box::new(self.store.shared(&mut *self.tx))
    }

    async fn insert(
        &mut self,
        record: Sql,
        connection: ConnectionId,
    ) -> Result<Option<(i64, bool)>, sqlx::Error> {
        sqlx::query_as(record.postgres)
            .bind(connection.0)
            .persistent(false)
            .fetch_optional(&mut *self.tx)
            .await
    }

    /// Whether `inspect` names what keeps verifyd from recording a run, which `serve` need not do, or whether the
    /// application allows one run of a connection at a time. A trigger may lack a right of its own.
    async fn is_named(&mut self, refusal: &sqlx::Error) -> Result<bool, StoreError> {
        let Some(error) = refusal.as_database_error() else {
            return Ok(false);
        };
        match error.code().as_deref() {
            Some(MAY_NOT) => {
                let missing = self.store.missing_privileges(self.tx, "operation_runs");
                Ok(missing.await?.has_no_insert())
            }
            Some(NOT_NULL) => {
                let unnamed = sqlx::query(UNNAMED).bind("operation_runs");
                let unnamed = unnamed.persistent(false);
                Ok(unnamed.fetch_optional(&mut *self.tx).await?.is_some())
            }
            // Not of the key: ids begin again behind those that are there.
            Some(NOT_UNIQUE) => Ok(!error
                .constraint()
                .is_some_and(|name| name.ends_with("_pkey"))),
            _ => Ok(false),
        }
    }

    async fn has_notified(&mut self) -> Result<Option<bool>, StoreError> {
        let is_own = sqlx::query_scalar(NOTIFYING)
            .bind(ADVISORY_SPACE)
            .persistent(false);
        let is_own: Option<bool> = is_own.fetch_one(&mut *self.tx).await?;
        Ok(match is_own {
            Some(true) => Some(true),
            // Others notify for this one, too.
            Some(false) => None,
            None => Some(false),
        })
    }

    async fn claim(&mut self, request: ClaimRequest) -> Result<Option<Claim>, StoreError> {
        self.store.claim_locked(self.tx, request).await
    }

    async fn complete(&mut self, request: &CompletionRequest) -> Result<Completed, StoreError> {
        let requests = std::slice::from_ref(request);
        self.store.complete_runs(self.tx, requests).await
    }

    async fn refresh_inventory(&mut self, row: &InventoryRow) -> Result<(), StoreError> {
        let rows = std::slice::from_ref(row);
        self.store.refresh_inventories(self.tx, rows).await
    }

    async fn is_restricted(&mut self) -> Result<bool, StoreError> {
        let restricted = self
            .store
            .scalar::<bool>("SELECT row_security_active('operation_runs')")
            .persistent(false);
        Ok(restricted.fetch_one(&mut *self.tx).await?)
    }

    async fn triggers(&mut self) -> Result<Vec<(String, bool, bool)>, StoreError> {
        let triggers = self.store.rows(TRIGGERS).persistent(false);
        Ok(triggers.fetch_all(&mut *self.tx).await?)
    }

    async fn rules(&mut self) -> Result<Vec<(String, String, bool)>, StoreError> {
        let rules = self.store.rows(RULES).persistent(false);
        Ok(rules.fetch_all(&mut *self.tx).await?)
    }
}
