//! Provider connections.

use super::audit::{owner, record};
use super::bounds::{is_valid_connection, short};
use super::credentials::{credential_columns, write_credential};
use super::dialect::{at, each, now, postgres_only};
use super::rows::{self, ConnectionRow, ConnectionWithCredentialRow};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, fetch_all, fetch_optional, transaction};
use super::statement::Sql;
use crate::domain::access::Binding;
use crate::domain::audit::{AuditAction, Change, Origin, credential_facts};
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::connections::{AddConnectionError, ConnectionStore, Seal};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde_json::json;

/// The columns of a `ConnectionRow`, of `provider_connections c`.
macro_rules! connection_columns {
    ($db:ident) => {
        $crate::store::sql::sql_for!(
            $db "c.id, c.workspace_id, c.tenant_id, " short!("c.provider") " AS provider, "
            short!("c.display_name") " AS display_name, " short!("c.status") " AS status, "
            short!("c.entra_tenant_id") " AS entra_tenant_id, " short!("c.client_id") " AS client_id, "
            short!("c.cloud") " AS cloud, " short!("c.module") " AS module, "
            at!("c.created_at") " AS created_at, " at!("c.updated_at") " AS updated_at"
        )
    };
}
pub(super) use connection_columns;

/// The newest credential, where another application's table allows several.
const CONNECTION: Sql = both!(
    "SELECT " connection_columns!() ", " credential_columns!() " FROM provider_connections c
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id
      WHERE c.id = $1 ORDER BY k.id DESC NULLS LAST LIMIT 1"
);

const CONNECTIONS: Sql = both!(
    "SELECT " connection_columns!() " FROM provider_connections c
      WHERE ($1 IS NULL OR c.tenant_id = $1) AND ($2 IS NULL OR c.id > $2) AND " is_valid_connection!()
    " ORDER BY c.id LIMIT $3"
);

/// In SQLite all tables are verifyd's own.
const OWNS_TENANTS: Sql = both!(each!(
    "SELECT EXISTS (SELECT FROM verifyd.owned_tables o
        WHERE o.table_name = 'tenants'
        AND to_regclass(format('%I.%I', o.table_schema, o.table_name)) = to_regclass('tenants'))",
    "SELECT true"
));

const INSERT_TENANT: Sql =
    both!("INSERT INTO tenants (id, workspace_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING");

const TENANT_WORKSPACE: Sql = both!("SELECT workspace_id FROM tenants WHERE id = $1");

const INSERT_CONNECTION: Sql = both!(
    "INSERT INTO provider_connections (workspace_id, tenant_id, provider, display_name, status,
        entra_tenant_id, client_id, cloud, module, created_at, updated_at)
     VALUES ($1, $2, $3, $4, 'enabled', $5, $6, $7, $8, " now!() ", " now!() ") RETURNING id"
);

/// Whose it is, and its status until now.
const LOCK_STATUS: Sql = both!(
    "SELECT CAST(workspace_id AS bigint), CAST(tenant_id AS bigint), " short!("status")
    " FROM provider_connections WHERE id = $1" postgres_only!(" FOR NO KEY UPDATE")
);

const SET_STATUS: Sql = both!(
    "UPDATE provider_connections SET status = $2, updated_at = " now!() " WHERE id = $1"
);

#[async_trait]
impl<S: SqlStore> ConnectionStore for S {
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        let found: Option<ConnectionWithCredentialRow> =
            fetch_optional(self, CONNECTION.bind(id.0)).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError> {
        let connections = CONNECTIONS
            .bind(tenant.map(|t| t.0))
            .bind(after.map(|c| c.0))
            .bind(limit);
        rows::all(fetch_all::<ConnectionRow>(self, connections).await?)
    }

    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
        by: &Origin,
    ) -> Result<ConnectionId, AddConnectionError> {
        transaction(self, async |tx| {
            ensure_tenant(tx, new).await?;
            let insert = INSERT_CONNECTION
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.0)
                .bind(&new.provider)
                .bind(&new.display_name)
                .bind(&new.entra_tenant_id)
                .bind(&new.client_id)
                .bind(&new.cloud)
                .bind(&new.module);
            let (id,): (i64,) = insert.fetch_one(tx).await?;
            let id = ConnectionId(id);
            let mut credential = None;
            if let Some(seal) = seal {
                let sealed = seal(CredentialBinding {
                    workspace_id: new.workspace_id,
                    tenant_id: new.tenant_id,
                    connection_id: id,
                })?;
                write_credential(tx, id, &sealed).await?;
                credential = Some(credential_facts(sealed.kind.as_str(), sealed.expires_at));
            }
            let owner = Binding {
                workspace_id: Some(new.workspace_id),
                tenant_id: Some(new.tenant_id),
            };
            let change = Change::new(AuditAction::ConnectionAdded, id.0, owner).after(json!({
                "provider": new.provider,
                "display_name": new.display_name,
                "entra_tenant_id": new.entra_tenant_id,
                "client_id": new.client_id,
                "cloud": new.cloud,
                "module": new.module,
                "credential": credential,
            }));
            record(tx, &change, by).await?;
            Ok(id)
        })
        .await
    }

    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
        by: &Origin,
    ) -> Result<bool, StoreError> {
        transaction(self, async |tx| {
            let found: Option<(Option<i64>, Option<i64>, Option<String>)> =
                LOCK_STATUS.bind(id.0).fetch_optional(tx).await?;
            let Some((workspace, tenant, before)) = found else {
                return Ok(false);
            };
            if before.as_deref() == Some(status.as_str()) {
                return Ok(true);
            }
            let set = SET_STATUS.bind(id.0).bind(status.as_str());
            set.execute(tx).await?;
            let action = match status {
                ConnectionStatus::Enabled => AuditAction::ConnectionEnabled,
                _ => AuditAction::ConnectionDisabled,
            };
            let change = Change::new(action, id.0, owner((workspace, tenant)))
                .before(json!({ "status": before }))
                .after(json!({ "status": status }));
            record(tx, &change, by).await?;
            Ok(true)
        })
        .await
    }
}

/// A minimal tenant where `tenants` is verifyd's own; never one of another workspace.
async fn ensure_tenant(tx: &mut dyn SqlConnection, new: &NewConnection) -> Result<(), StoreError> {
    let (owned,): (bool,) = OWNS_TENANTS.fetch_one(tx).await?;
    if !owned {
        return Ok(());
    }
    let insert = INSERT_TENANT.bind(new.tenant_id.0).bind(new.workspace_id.0);
    insert.execute(tx).await?;
    let workspace: Option<(i64,)> = TENANT_WORKSPACE
        .bind(new.tenant_id.0)
        .fetch_optional(tx)
        .await?;
    match workspace {
        Some((workspace,)) if workspace != new.workspace_id.0 => Err(StoreError::Refused(
            format!("tenant {} belongs to another workspace", new.tenant_id).into(),
        )),
        _ => Ok(()),
    }
}
