//! Refreshes the permission inventory: changed rows are written, and one row per tenant has the time of the last
//! refresh and a digest that shows whether anything can have changed.

use super::PostgresStore;
use crate::ports::store_error::StoreError;
use crate::store::completion::{DIGEST_STANDS_SECONDS, InventoryRow};
use crate::store::dialect::{is_about, run_type};
use crate::store::inventory::is_read_by_its_run;
use crate::store::sql::sql;
use sqlx::PgConnection;
use std::borrow::Borrow;
use std::collections::HashSet;

/// Runs first: its row lock serialises refreshes of one tenant, so that the next statement sees the inventory
/// as the previous refresh left it. Locks in the order of the tenants, as every writer does. Returns which
/// inventories have to be compared with the stored rows: those with another digest, those of a run that no
/// longer exists, and from time to time (`$5`, seconds) all, since others may write the rows, too.
const FRESHNESS: &str = sql!(
    "INSERT INTO verifyd.tenant_inventory AS i
        (tenant_id, operation_run_id, refreshed_at, source, digest, compared_at)
    SELECT d.tenant_id, d.run_id, now(), d.source, d.digest, now()
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
        AS d (tenant_id, run_id, source, digest)
    ORDER BY d.tenant_id
    ON CONFLICT (tenant_id) DO UPDATE SET operation_run_id = excluded.operation_run_id,
        refreshed_at = excluded.refreshed_at, source = excluded.source, digest = excluded.digest,
        compared_at = CASE WHEN i.digest = excluded.digest
                                AND i.operation_run_id <> excluded.operation_run_id AND "
    is_read_by_its_run!(postgres "i") "           AND i.compared_at > now() - make_interval(secs => $5)
                           THEN i.compared_at ELSE now() END
    RETURNING i.tenant_id, i.compared_at = now()"
);

/// Only rows that differ reach the INSERT; `ON CONFLICT` alone would lock, and so write, all of them.
/// `removed_at` is not compared: it is set when a grant disappears, kept while it is absent, and removed when
/// it returns.
const REFRESH: &str = "
    WITH fresh AS (
        SELECT d.tenant_id, f.permission_key, f.status, f.details
        FROM unnest($1::bigint[], $2::jsonb[]) AS d (tenant_id, entries),
             jsonb_to_recordset(d.entries) AS f(permission_key text, status text, details jsonb)
    ), stored AS (
        SELECT tenant_id, permission_key, status,
               CASE WHEN jsonb_typeof(details) = 'object' THEN details ELSE '{}' END AS details
        FROM tenant_permissions WHERE tenant_id = ANY($1)
    ), removal AS (
        SELECT jsonb_build_object('removed_at',
            to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) AS mark
    ), changed AS (
        SELECT f.tenant_id, f.permission_key, f.status,
               CASE WHEN f.status <> 'missing' THEN f.details
                    WHEN s.status = 'granted' THEN f.details || removal.mark
                    WHEN s.details ? 'removed_at'
                        THEN f.details || jsonb_build_object('removed_at', s.details -> 'removed_at')
                    ELSE f.details END AS details
        FROM fresh f CROSS JOIN removal LEFT JOIN stored s USING (tenant_id, permission_key)
        WHERE s.permission_key IS NULL OR s.status IS DISTINCT FROM f.status
              OR s.details - 'removed_at' <> f.details
        UNION ALL
        SELECT s.tenant_id, s.permission_key, 'missing', s.details || removal.mark
        FROM stored s CROSS JOIN removal
        WHERE s.status = 'granted'
              AND NOT EXISTS (SELECT FROM fresh f WHERE f.tenant_id = s.tenant_id
                                                    AND f.permission_key = s.permission_key)
    )
    INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at)
    SELECT tenant_id, permission_key, status, details, now() FROM changed
    ORDER BY tenant_id, permission_key
    ON CONFLICT (tenant_id, permission_key) DO UPDATE
    SET status = excluded.status, details = excluded.details,
        last_checked_at = excluded.last_checked_at";

impl PostgresStore {
    /// Refreshes at most one inventory for each tenant.
    pub(super) async fn refresh_inventories<R: Borrow<InventoryRow>>(
        &self,
        tx: &mut PgConnection,
        rows: &[R],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let due = self.write_freshness(tx, rows).await?;
        if due.is_empty() {
            return Ok(());
        }
        let rows = rows.iter().map(Borrow::borrow);
        let due: Vec<&InventoryRow> = rows.filter(|r| due.contains(&r.tenant)).collect();
        let entries: Vec<_> = due.iter().map(|r| r.entries()).collect::<Result<_, _>>()?;
        self.sql(REFRESH)
            .bind(due.iter().map(|r| r.tenant).collect::<Vec<i64>>())
            .bind(entries)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }

    /// Returns the tenants whose stored rows have to be compared.
    async fn write_freshness<R: Borrow<InventoryRow>>(
        &self,
        tx: &mut PgConnection,
        rows: &[R],
    ) -> Result<HashSet<i64>, StoreError> {
        let rows = || rows.iter().map(Borrow::borrow);
        let compared: Vec<(i64, bool)> = self
            .rows(FRESHNESS)
            .bind(rows().map(|r| r.tenant).collect::<Vec<i64>>())
            .bind(rows().map(|r| r.run).collect::<Vec<i64>>())
            .bind(rows().map(|r| r.source).collect::<Vec<&str>>())
            .bind(rows().map(InventoryRow::digest).collect::<Vec<&str>>())
            .bind(DIGEST_STANDS_SECONDS)
            .fetch_all(&mut *tx)
            .await?;
        let compared = compared.into_iter();
        Ok(compared
            .filter_map(|(tenant, due)| due.then_some(tenant))
            .collect())
    }
}
