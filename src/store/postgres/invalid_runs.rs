//! Finds invalid runs.

use super::bounds::{is_listed, member, short, time};
use super::{PostgresStore, run_type};
use crate::ports::invalid_runs::{InvalidRun, InvalidRunStore};
use crate::ports::store_error::StoreError;
use crate::store::invalid_runs::InvalidRunRow;
use crate::store::sql::sql;
use async_trait::async_trait;

/// `$1`: how many of the latest rows of the table, of any type, are looked at: another application's
/// table has no index that would help. Every condition is false on what verifyd itself writes about a
/// run that it could understand. Of contexts, only those of blocked runs are read, and only small ones.
const INVALID: &str = sql!(
    "WITH latest AS MATERIALIZED (
        SELECT id, type, status, outcome, created_at, completed_at, context
        FROM operation_runs ORDER BY id DESC LIMIT $1
    ), seen AS (
        SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, "
    is_listed!("l.context") " IS NOT FALSE AS listed, (" time!("l.created_at")
    ") IS NULL AND l.created_at IS NOT NULL AS bad_created_at
        FROM latest l WHERE type = " run_type!() "), judged AS (
        SELECT s.*, CASE WHEN s.blocked AND s.listed THEN " member!("s.context", "{reason_code}")
    " END AS reason_code,
            coalesce(s.blocked AND s.listed
                AND jsonb_typeof(s.context -> 'verification_report') IS DISTINCT FROM 'object',
                false) AS blocked_without_report
        FROM seen s
    )
    SELECT id, " short!("j.status") " AS status, " short!("j.outcome")
    " AS outcome, completed_at IS NOT NULL AS completed, blocked_without_report, reason_code,
        bad_created_at
    FROM judged j WHERE id <= 0 OR bad_created_at OR CASE
        WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL
        WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL
            OR outcome NOT IN ('succeeded', 'failed', 'blocked') OR blocked_without_report
            OR blocked AND NOT listed
            OR reason_code IN ('context_malformed', 'context_too_large', 'target_scope_malformed')
        ELSE true END
    ORDER BY id DESC LIMIT $2"
);

#[async_trait]
impl InvalidRunStore for PostgresStore {
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError> {
        let query = self
            .rows(INVALID)
            .bind(i64::from(latest))
            .bind(i64::from(limit));
        let found: Vec<InvalidRunRow> = self.fetch_all(query).await?;
        Ok(found.into_iter().map(Into::into).collect())
    }
}
