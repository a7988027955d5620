//! Provider connections.

use super::bounds::{is_valid_connection, short};
use super::credentials::{credential_columns, write_credential};
use super::dialect::{at, each, now};
use super::rows::{self, ConnectionRow, ConnectionWithCredentialRow};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, execute, fetch_all, fetch_optional, transaction};
use super::statement::Sql;
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::connections::{AddConnectionError, ConnectionStore, Seal};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

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
            if let Some(seal) = seal {
                let sealed = seal(CredentialBinding {
                    workspace_id: new.workspace_id,
                    tenant_id: new.tenant_id,
                    connection_id: id,
                })?;
                write_credential(tx, id, &sealed).await?;
            }
            Ok(id)
        })
        .await
    }

    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
    ) -> Result<bool, StoreError> {
        let set = SET_STATUS.bind(id.0).bind(status.as_str());
        Ok(execute(self, set).await? > 0)
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
        Some((workspace,)) if workspace != new.workspace_id.0 => Err(StoreError::Refused(format!(
            "tenant {} belongs to another workspace",
            new.tenant_id
        ))),
        _ => Ok(()),
    }
}
