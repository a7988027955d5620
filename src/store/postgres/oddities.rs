//! Rows that no worker will ever claim.

use super::{PostgresStore, commit, run_type};
use crate::ports::oddities::{OddRun, OddityStore};
use crate::ports::store::StoreError;
use crate::store::error::from_sqlx;
use crate::store::oddities::OddRunRow;
use async_trait::async_trait;

/// `$1`: how many of the latest rows of the table, of any type, are looked at: another application's
/// table has no index that would help. Every condition is false on what verifyd itself writes.
const ODD: &str = concat!(
    "WITH latest AS MATERIALIZED ( \
        SELECT id, type, status, outcome, completed_at, context \
        FROM operation_runs ORDER BY id DESC LIMIT $1 \
    ) \
    SELECT id, status, outcome, completed_at IS NOT NULL AS completed, \
        coalesce(outcome = 'blocked' AND jsonb_typeof(context -> 'verification_report') \
            IS DISTINCT FROM 'object', false) AS blocked_without_report \
    FROM latest WHERE type = ",
    run_type!(),
    " AND CASE \
        WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL \
        WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL \
            OR outcome NOT IN ('succeeded', 'failed', 'blocked') \
            OR outcome = 'blocked' AND jsonb_typeof(context -> 'verification_report') \
                IS DISTINCT FROM 'object' \
        ELSE true END \
    ORDER BY id DESC LIMIT $2"
);

#[async_trait]
impl OddityStore for PostgresStore {
    async fn odd_runs(&self, latest: u32, limit: u32) -> Result<Vec<OddRun>, StoreError> {
        self.in_time(async {
            let mut tx = self.begin().await?;
            let found: Vec<OddRunRow> = self
                .rows(ODD)
                .bind(i64::from(latest))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            commit(tx).await?;
            Ok(found.into_iter().map(Into::into).collect())
        })
        .await
    }
}
