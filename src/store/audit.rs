//! The audit trail. [`record`] adds an entry to the transaction of the change that it is about.

use super::dialect::{before, each, own};
use super::filters::push_audit_filter;
use super::from_row::from_row;
use super::repeated_ids::is_newest_of_id;
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, execute, fetch_all, read, transaction};
use super::statement::{Sql, Statement, earlier};
use super::tolerant_decoding::Time;
use crate::domain::access::Binding;
use crate::domain::audit::{AuditEntry, Change, Origin};
use crate::domain::json;
use crate::domain::{AuditEntryId, ConnectionId, RunId, TenantId, TokenId, WorkspaceId};
use crate::ports::audit::{AuditFilter, AuditStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde_json::Value;
use std::time::Duration;

/// Longest text in a column of an entry, in characters of up to four bytes: what its table admits.
const MAX_COLUMN_LENGTH: usize = 250;

/// The same within JSON, where a character takes up to six bytes: an origin of the longest host name is whole, and all
/// members together fit into what the table admits.
const MAX_TEXT_LENGTH: usize = 500;

/// The id of an entry in SQLite, which itself chooses none once a row, or `sqlite_sequence`, has the largest number: the one
/// behind the highest, also of those that are deleted. No trigger guards `sqlite_sequence`, so it counts only where it is
/// near (migration 20).
macro_rules! next_id {
    (postgres) => {
        ""
    };
    (sqlite) => {
        "(SELECT 1 + max(h.id, coalesce((SELECT max(s.seq) FROM sqlite_sequence s
            WHERE s.name = 'verifyd_audit_entries' AND typeof(s.seq) = 'integer' AND s.seq < h.id + (1 << 32)), 0))
          FROM (SELECT coalesce(max(id), 0) AS id FROM verifyd_audit_entries WHERE id < 1 << 62) h), "
    };
}

const ADD: Sql = both!(
    "INSERT INTO " own!(audit_entries) " (" each!("", "id, ")
    "    action, object, object_id, workspace_id, tenant_id, surface, token_id, actor, address, request_id,
         before, after)
     VALUES (" next_id!() "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, "
    each!("$11::text::jsonb, $12::text::jsonb", "$11, $12") ")"
);

const ENTRIES: Sql = both!(
    "SELECT a.id, a.at, a.action, a.object, a.object_id, a.workspace_id, a.tenant_id, a.surface, a.token_id,
        a.actor, a.address, a.request_id, "
    each!(
        "a.before::text AS before, a.after::text AS after",
        "a.before AS before, a.after AS after"
    )
    " FROM " own!(audit_entries) " a WHERE 1 = 1"
);

/// Ids grow with time, so the oldest entries are found at the beginning of the key.
const PRUNE: Sql = both!(
    "DELETE FROM " own!(audit_entries) " WHERE id IN (
        SELECT id FROM " own!(audit_entries) " WHERE at < " before!("$1") " ORDER BY id LIMIT $2)"
);

const COUNT: Sql = both!("SELECT count(*) FROM " own!(audit_entries) " WHERE at < " before!("$1"));

/// The columns of an [`Owner`], which may be another application's.
macro_rules! owner_columns {
    ($($db:ident)?) => {
        "CAST(workspace_id AS bigint), CAST(tenant_id AS bigint)"
    };
}
pub(super) use owner_columns;

/// The workspace and tenant of a row.
pub(super) type Owner = (Option<i64>, Option<i64>);

const OWNER_OF_RUN: Sql = both!(
    "SELECT " owner_columns!() " FROM operation_runs r WHERE id = $1 AND " is_newest_of_id!("r")
);

const OWNER_OF_CONNECTION: Sql =
    both!("SELECT " owner_columns!() " FROM provider_connections WHERE id = $1");

const OWNER_OF_TOKEN: Sql =
    both!("SELECT " owner_columns!() " FROM " own!(api_tokens) " WHERE id = $1");

#[async_trait]
impl<S: SqlStore> AuditStore for S {
    async fn add_audit_entry(&self, change: &Change, by: &Origin) -> Result<(), StoreError> {
        transaction(self, async |tx| record(tx, change, by).await).await
    }

    async fn audit_entries(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query = Statement::from(ENTRIES);
        push_audit_filter(&mut query, filter);
        let found: Vec<AuditRow> = fetch_all(self, query).await?;
        Ok(found.into_iter().map(Into::into).collect())
    }

    async fn prune_audit_entries(
        &self,
        older_than: Duration,
        batch: u32,
    ) -> Result<u64, StoreError> {
        execute(self, PRUNE.bind(earlier(older_than)).bind(batch)).await
    }

    async fn prunable_audit_entries(&self, older_than: Duration) -> Result<u64, StoreError> {
        let count = COUNT.bind(earlier(older_than));
        let (count,): (i64,) = read(self, async |tx| count.fetch_one(tx).await).await?;
        Ok(count.unsigned_abs())
    }
}

/// Adds an entry. It is there if, and only if, the transaction is committed.
pub(super) async fn record(
    tx: &mut dyn SqlConnection,
    change: &Change,
    by: &Origin,
) -> Result<(), StoreError> {
    let text = |value: &Option<Value>| value.clone().map(|value| cut(value).to_string());
    let column = |text: &Option<String>| Some(start_of(text.as_ref()?, MAX_COLUMN_LENGTH));
    let add = ADD
        .bind(change.action.as_str())
        .bind(change.action.object().as_str())
        .bind(change.object_id)
        .bind(change.owner.workspace_id.map(|id| id.0))
        .bind(change.owner.tenant_id.map(|id| id.0))
        .bind(by.actor.surface.as_str())
        .bind(by.actor.token_id.map(|id| id.0))
        .bind(start_of(&by.actor.name, MAX_COLUMN_LENGTH))
        .bind(column(&by.address))
        .bind(column(&by.request_id))
        .bind(text(&change.before))
        .bind(text(&change.after));
    add.execute(tx).await?;
    Ok(())
}

/// Returns the value with each of its texts, which another application may have written, as long as an entry keeps it.
fn cut(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(start_of(&text, MAX_TEXT_LENGTH)),
        Value::Array(values) => values.into_iter().map(cut).collect(),
        Value::Object(members) => {
            let members = members.into_iter();
            members.map(|(name, value)| (name, cut(value))).collect()
        }
        other => other,
    }
}

fn start_of(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

/// Returns whose a row is.
pub(super) fn owner((workspace, tenant): Owner) -> Binding {
    Binding {
        workspace_id: workspace.map(WorkspaceId),
        tenant_id: tenant.map(TenantId),
    }
}

/// Returns whose a run is. One that is gone is nobody's.
pub(super) async fn owner_of_run(
    tx: &mut dyn SqlConnection,
    id: RunId,
) -> Result<Binding, StoreError> {
    owner_by(tx, OWNER_OF_RUN.bind(id.0)).await
}

/// Returns whose a connection is.
pub(super) async fn owner_of_connection(
    tx: &mut dyn SqlConnection,
    id: ConnectionId,
) -> Result<Binding, StoreError> {
    owner_by(tx, OWNER_OF_CONNECTION.bind(id.0)).await
}

/// Returns what a token is bound to.
pub(super) async fn owner_of_token(
    tx: &mut dyn SqlConnection,
    id: TokenId,
) -> Result<Binding, StoreError> {
    owner_by(tx, OWNER_OF_TOKEN.bind(id.0)).await
}

async fn owner_by(tx: &mut dyn SqlConnection, statement: Statement) -> Result<Binding, StoreError> {
    let found: Option<Owner> = statement.fetch_optional(tx).await?;
    Ok(found.map(owner).unwrap_or_default())
}

from_row! {
    /// `audit_entries`. Whoever owns the table can write any time.
    #[derive(Debug)]
    struct AuditRow {
        id: i64,
        at: Time,
        action: String,
        object: String,
        object_id: Option<i64>,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        surface: String,
        token_id: Option<i64>,
        actor: String,
        address: Option<String>,
        request_id: Option<String>,
        before: Option<String>,
        after: Option<String>,
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let json = |text: Option<String>| text.map(|text| json::read(&text));
        Self {
            id: AuditEntryId(row.id),
            at: row.at.happened(),
            action: row.action,
            object: row.object,
            object_id: row.object_id,
            owner: owner((row.workspace_id, row.tenant_id)),
            surface: row.surface,
            token_id: row.token_id.map(TokenId),
            actor: row.actor,
            address: row.address,
            request_id: row.request_id,
            before: json(row.before),
            after: json(row.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_keeps_the_start_of_each_text() {
        let (long, kept) = ("ä".repeat(1_000_000), "ä".repeat(MAX_TEXT_LENGTH));
        let of = |text: &str| json!({ "a": 1, "b": [text, null], "c": { "d": text } });
        assert_eq!(cut(of(&long)), of(&kept));
    }
}
