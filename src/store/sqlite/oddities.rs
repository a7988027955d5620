//! Rows that no worker will ever claim.

use super::{SqliteStore, run_type};
use crate::ports::oddities::{OddRun, OddityStore};
use crate::ports::store::StoreError;
use crate::store::error::from_sqlx;
use crate::store::oddities::OddRunRow;
use async_trait::async_trait;

const ODD: &str = concat!(
    "WITH latest AS ( \
        SELECT id, type, status, outcome, completed_at, context \
        FROM operation_runs ORDER BY id DESC LIMIT $1 \
    ) \
    SELECT id, status, outcome, completed_at IS NOT NULL AS completed, \
        coalesce(outcome = 'blocked' AND json_type(context, '$.verification_report') \
            IS NOT 'object', 0) AS blocked_without_report \
    FROM latest WHERE type = ",
    run_type!(),
    " AND CASE \
        WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL \
        WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL \
            OR outcome NOT IN ('succeeded', 'failed', 'blocked') \
            OR outcome = 'blocked' AND json_type(context, '$.verification_report') IS NOT 'object' \
        ELSE 1 END \
    ORDER BY id DESC LIMIT $2"
);

#[async_trait]
impl OddityStore for SqliteStore {
    async fn odd_runs(&self, latest: u32, limit: u32) -> Result<Vec<OddRun>, StoreError> {
        let found: Vec<OddRunRow> = sqlx::query_as(ODD)
            .bind(latest)
            .bind(limit)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        Ok(found.into_iter().map(Into::into).collect())
    }
}
