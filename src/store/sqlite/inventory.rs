//! Refreshes the permission inventory: changed rows are written, and one row per tenant has the time of the last
//! refresh and a digest that shows whether anything can have changed.

use super::{SqliteStore, json_list};
use crate::domain::permission::{PermissionStatus, StoredPermission};
use crate::ports::store_error::StoreError;
use crate::store::completion::{DIGEST_STANDS_SECONDS, InventoryRow};
use crate::store::dialect::{is_about, run_type};
use crate::store::inventory::is_read_by_its_run;
use crate::store::rows::{self, PermissionRow};
use crate::store::sql::sql;
use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::SqliteConnection;
use std::collections::BTreeMap;

/// `$1`: tenant, run, source, digest; `$2`: the time. Returns whether the inventory has to be compared with
/// the stored rows: its digest differs, the run that read it no longer exists, or the last comparison is too
/// old (`$3`, seconds), since others may write the rows, too.
const FRESHNESS: &str = sql!(
    "INSERT INTO verifyd_tenant_inventory
        (tenant_id, operation_run_id, refreshed_at, source, digest, compared_at)
    SELECT value ->> 0, value ->> 1, $2, value ->> 2, value ->> 3, $2 FROM json_each($1) WHERE true
    ON CONFLICT (tenant_id) DO UPDATE SET operation_run_id = excluded.operation_run_id,
        refreshed_at = excluded.refreshed_at, source = excluded.source,
        digest = excluded.digest,
        compared_at = CASE WHEN digest = excluded.digest
             AND verifyd_tenant_inventory.operation_run_id <> excluded.operation_run_id
             AND " is_read_by_its_run!(sqlite "verifyd_tenant_inventory") "
                                AND julianday(compared_at) > julianday($2) - $3 / 86400.0
                           THEN compared_at ELSE $2 END
    RETURNING tenant_id, compared_at = $2"
);

/// `$2`: permission, status, details.
const WRITE: &str = "
    INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at)
    SELECT $1, value ->> 0, value ->> 1, value -> 2, $3 FROM json_each($2) WHERE true
    ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status = excluded.status,
        details = excluded.details, last_checked_at = excluded.last_checked_at";

const STORED: &str = "
    SELECT tenant_id, permission_key, status,
        CASE WHEN octet_length(details) <= 65536 THEN details END AS details, last_checked_at
    FROM tenant_permissions WHERE tenant_id = $1 AND status IN ('granted', 'missing')
        AND permission_key IS NOT NULL ORDER BY permission_key";

/// Since when a grant is gone: set when it disappears, kept while it is absent, removed when it returns. It
/// is not compared.
const REMOVED_AT: &str = "removed_at";

struct Change {
    key: String,
    status: PermissionStatus,
    details: Map<String, Value>,
}

/// One of `InventoryRow::entries`.
#[derive(Deserialize)]
struct Entry {
    permission_key: String,
    status: PermissionStatus,
    details: Map<String, Value>,
}

impl SqliteStore {
    /// Refreshes at most one inventory for each tenant. `now` is the database's time.
    pub(super) async fn refresh_inventories(
        &self,
        tx: &mut SqliteConnection,
        fresh: &[&InventoryRow],
        now: &str,
    ) -> Result<(), StoreError> {
        if fresh.is_empty() {
            return Ok(());
        }
        let compared = write_freshness(tx, fresh, now).await?;
        for row in fresh {
            if compared.contains(&(row.tenant, true)) {
                write_what_differs(tx, row, now).await?;
            }
        }
        Ok(())
    }
}

/// Returns each tenant, and whether its stored rows have to be compared.
async fn write_freshness(
    tx: &mut SqliteConnection,
    fresh: &[&InventoryRow],
    now: &str,
) -> Result<Vec<(i64, bool)>, StoreError> {
    let read = fresh
        .iter()
        .map(|row| (row.tenant, row.run, row.source, row.digest()));
    Ok(sqlx::query_as(FRESHNESS)
        .bind(json_list(read)?)
        .bind(now)
        .bind(DIGEST_STANDS_SECONDS)
        .fetch_all(&mut *tx)
        .await?)
}

async fn write_what_differs(
    tx: &mut SqliteConnection,
    fresh: &InventoryRow,
    now: &str,
) -> Result<(), StoreError> {
    let found: Vec<PermissionRow> = sqlx::query_as(STORED)
        .bind(fresh.tenant)
        .fetch_all(&mut *tx)
        .await?;
    let changes = changes(rows::readable(found), entries(fresh)?, now);
    if changes.is_empty() {
        return Ok(());
    }
    let written = changes
        .iter()
        .map(|change| (&change.key, change.status, &change.details));
    sqlx::query(WRITE)
        .bind(fresh.tenant)
        .bind(json_list(written)?)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

fn entries(row: &InventoryRow) -> Result<Vec<Entry>, StoreError> {
    serde_json::from_str(row.entries()?.0.get())
        .map_err(|_| StoreError::Refused("the inventory cannot be read again".into()))
}

/// Returns the rows to write.
fn changes(stored: Vec<StoredPermission>, entries: Vec<Entry>, now: &str) -> Vec<Change> {
    let mut stored: BTreeMap<String, StoredPermission> = stored
        .into_iter()
        .map(|row| (row.permission_key.clone(), row))
        .collect();
    let mut changes = Vec::new();
    for entry in entries {
        let mut details = entry.details;
        if let Some(row) = stored.remove(&entry.permission_key) {
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
            key: entry.permission_key,
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
    changes
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
