//! Finds invalid runs.

use super::bounds::{is_listed, member, short, time};
use super::{SqliteStore, run_type};
use crate::ports::invalid_runs::{InvalidRun, InvalidRunStore};
use crate::ports::store_error::StoreError;
use crate::store::invalid_runs::InvalidRunRow;
use crate::store::sql::sql;
use async_trait::async_trait;

/// As PostgreSQL's statement of the same name.
const INVALID: &str = sql!(
    "WITH latest AS (
        SELECT id, type, status, outcome, created_at, completed_at,
               CASE WHEN " is_listed!("context")
    " THEN context END AS context FROM operation_runs ORDER BY id DESC LIMIT $1
    ), judged AS (
        SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, " time!("l.created_at")
    " IS NULL AS bad_created_at,
            CASE WHEN l.outcome = 'blocked' THEN " member!("l.context", "$.reason_code")
    " END AS reason_code,
            coalesce(l.outcome = 'blocked' AND l.context IS NOT NULL
                AND json_type(l.context, '$.verification_report') IS NOT 'object', 0)
                AS blocked_without_report
        FROM latest l WHERE type = " run_type!() ") SELECT id, " short!("status") " AS status, "
    short!("outcome")
    " AS outcome, completed_at IS NOT NULL AS completed, blocked_without_report, reason_code,
        bad_created_at
    FROM judged WHERE id <= 0 OR bad_created_at OR CASE
        WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL
        WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL
            OR outcome NOT IN ('succeeded', 'failed', 'blocked') OR blocked_without_report
            OR blocked AND context IS NULL
            OR reason_code IN ('context_malformed', 'context_too_large', 'target_scope_malformed')
        ELSE 1 END
    ORDER BY id DESC LIMIT $2"
);

#[async_trait]
impl InvalidRunStore for SqliteStore {
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError> {
        let found: Vec<InvalidRunRow> = sqlx::query_as(INVALID)
            .bind(latest)
            .bind(limit)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(found.into_iter().map(Into::into).collect())
    }
}
