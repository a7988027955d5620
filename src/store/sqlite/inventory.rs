//! The permission inventory: what changed is written, and one row per tenant that says how fresh
//! the whole is, and by a digest whether anything can have changed.

use super::{SqliteStore, Tx};
use crate::domain::permission::{InventoryRefresh, PermissionStatus, StoredPermission};
use crate::domain::{RunId, TenantId};
use crate::ports::store::{InventoryFreshness, StoreError};
use crate::store::completion::{DIGEST_STANDS_SECONDS, InventoryRow, inventory_details};
use crate::store::error::from_sqlx;
use crate::store::rows::{self, FreshnessRow, PermissionRow};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Says whether the inventory has to be compared with what is stored: its digest is another one, or
/// it has not been compared for long (`$6`, seconds), as others may write the rows, too.
const FRESHNESS: &str = "\
    INSERT INTO verifyd_tenant_inventory \
        (tenant_id, operation_run_id, refreshed_at, source, digest, compared_at) \
    VALUES ($1, $2, $3, $4, $5, $3) \
    ON CONFLICT (tenant_id) DO UPDATE SET operation_run_id = excluded.operation_run_id, \
        refreshed_at = excluded.refreshed_at, source = excluded.source, \
        digest = excluded.digest, \
        compared_at = CASE WHEN digest = excluded.digest \
                                AND julianday(compared_at) > julianday($3) - $6 / 86400.0 \
                           THEN compared_at ELSE $3 END \
    RETURNING compared_at = $3";

const WRITE: &str = "\
    INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at) \
    VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status = excluded.status, \
        details = excluded.details, last_checked_at = excluded.last_checked_at";

const PERMISSIONS: &str = "\
    SELECT tenant_id, permission_key, status, details, last_checked_at \
    FROM tenant_permissions WHERE tenant_id = $1 ORDER BY permission_key";

const READ_FRESHNESS: &str = "\
    SELECT tenant_id, operation_run_id, refreshed_at, source \
    FROM verifyd_tenant_inventory WHERE tenant_id = $1";

/// Says since when a grant has been gone: set when it goes, kept while it stays away, dropped when
/// it comes back. No difference by itself.
const REMOVED_AT: &str = "removed_at";

struct Change {
    key: String,
    status: PermissionStatus,
    details: Map<String, Value>,
}

impl SqliteStore {
    /// `now` is the database's time.
    pub(super) async fn refresh_inventory(
        &self,
        tx: &mut Tx,
        run: RunId,
        refresh: &InventoryRefresh,
        now: &str,
    ) -> Result<(), StoreError> {
        let row = InventoryRow::new(run, refresh)?;
        let due: bool = sqlx::query_scalar(FRESHNESS)
            .bind(row.tenant)
            .bind(row.run)
            .bind(now)
            .bind(row.source)
            .bind(row.digest)
            .bind(DIGEST_STANDS_SECONDS)
            .fetch_one(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        if !due {
            return Ok(());
        }
        let found: Vec<PermissionRow> = sqlx::query_as(PERMISSIONS)
            .bind(refresh.tenant_id.0)
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        for change in changes(rows::all(found)?, refresh, now)? {
            sqlx::query(WRITE)
                .bind(refresh.tenant_id.0)
                .bind(change.key)
                .bind(change.status.as_str())
                .bind(Value::Object(change.details))
                .bind(now)
                .execute(&mut **tx)
                .await
                .map_err(from_sqlx)?;
        }
        Ok(())
    }

    pub(super) async fn list_permissions(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<StoredPermission>, StoreError> {
        let found: Vec<PermissionRow> = sqlx::query_as(PERMISSIONS)
            .bind(tenant.0)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        rows::all(found)
    }

    pub(super) async fn read_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError> {
        let found: Option<FreshnessRow> = sqlx::query_as(READ_FRESHNESS)
            .bind(tenant.0)
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        Ok(found.map(Into::into))
    }
}

/// What has to be written so that the stored inventory is the fresh one.
fn changes(
    stored: Vec<StoredPermission>,
    refresh: &InventoryRefresh,
    now: &str,
) -> Result<Vec<Change>, StoreError> {
    let mut stored: BTreeMap<String, StoredPermission> = stored
        .into_iter()
        .map(|row| (row.permission_key.clone(), row))
        .collect();
    let mut changes = Vec::new();
    for (key, entry) in &refresh.entries {
        let mut details = inventory_details(entry)?;
        if let Some(row) = stored.remove(key) {
            let mut before = object(row.details);
            let removed_at = before.remove(REMOVED_AT);
            if row.status == entry.status && before == details {
                continue;
            }
            if entry.status == PermissionStatus::Missing {
                let mark = if row.status == PermissionStatus::Granted {
                    Some(Value::from(now))
                } else {
                    removed_at
                };
                details.extend(mark.map(|at| (REMOVED_AT.to_owned(), at)));
            }
        }
        changes.push(Change {
            key: key.clone(),
            status: entry.status,
            details,
        });
    }
    for (key, row) in stored {
        if row.status == PermissionStatus::Granted {
            let mut details = object(row.details);
            details.insert(REMOVED_AT.into(), now.into());
            changes.push(Change {
                key,
                status: PermissionStatus::Missing,
                details,
            });
        }
    }
    Ok(changes)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
