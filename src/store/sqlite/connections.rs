//! Provider connections.

use super::bounds::is_valid_connection;
use super::credentials::credential_columns;
use super::{SqliteStore, now};
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::connections::{AddConnectionError, ConnectionStore, Seal};
use crate::ports::store_error::StoreError;
use crate::store::rows::{self, ConnectionRow, ConnectionWithCredentialRow};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::SqliteConnection;

macro_rules! connection_columns {
    () => {
        $crate::store::sql::sql!(
            "c.id, c.workspace_id, c.tenant_id, " $crate::store::sqlite::bounds::short!("c.provider")
            " AS provider, " $crate::store::sqlite::bounds::short!("c.display_name")
            " AS display_name, " $crate::store::sqlite::bounds::short!("c.status") " AS status, "
            $crate::store::sqlite::bounds::short!("c.entra_tenant_id") " AS entra_tenant_id, "
            $crate::store::sqlite::bounds::short!("c.client_id") " AS client_id, "
            $crate::store::sqlite::bounds::short!("c.cloud") " AS cloud, "
            $crate::store::sqlite::bounds::short!("c.module") " AS module, c.created_at AS created_at, c.updated_at AS updated_at"
        )
    };
}

pub(super) use connection_columns;

const CONNECTION: &str = sql!(
    "SELECT " connection_columns!() ", " credential_columns!() " FROM provider_connections c
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id
      WHERE c.id = $1"
);

const CONNECTIONS: &str = sql!(
    "SELECT " connection_columns!() " FROM provider_connections c
      WHERE ($1 IS NULL OR c.tenant_id = $1) AND ($2 IS NULL OR c.id > $2) AND " is_valid_connection!()
    " ORDER BY c.id LIMIT $3"
);

const INSERT_TENANT: &str = "
    INSERT INTO tenants (id, workspace_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";

const TENANT_WORKSPACE: &str = "SELECT workspace_id FROM tenants WHERE id = $1";

const INSERT_CONNECTION: &str = sql!(
    "INSERT INTO provider_connections (workspace_id, tenant_id, provider, display_name, status,
        entra_tenant_id, client_id, cloud, module, created_at, updated_at)
    VALUES ($1, $2, $3, $4, 'enabled', $5, $6, $7, $8, " now!() ", " now!() ") RETURNING id"
);

const SET_STATUS: &str = sql!(
    "UPDATE provider_connections SET status = $2, updated_at = " now!() " WHERE id = $1"
);

#[async_trait]
impl ConnectionStore for SqliteStore {
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        let found: Option<ConnectionWithCredentialRow> = sqlx::query_as(CONNECTION)
            .bind(id.0)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError> {
        let found: Vec<ConnectionRow> = sqlx::query_as(CONNECTIONS)
            .bind(tenant.map(|t| t.0))
            .bind(after.map(|c| c.0))
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError> {
        self.transaction(async |tx| {
            self.ensure_tenant(tx, new).await?;
            let id: i64 = sqlx::query_scalar(INSERT_CONNECTION)
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.0)
                .bind(&new.provider)
                .bind(&new.display_name)
                .bind(&new.entra_tenant_id)
                .bind(&new.client_id)
                .bind(&new.cloud)
                .bind(&new.module)
                .fetch_one(&mut *tx)
                .await?;
            let id = ConnectionId(id);
            if let Some(seal) = seal {
                let sealed = seal(CredentialBinding {
                    workspace_id: new.workspace_id,
                    tenant_id: new.tenant_id,
                    connection_id: id,
                });
                match sealed {
                    Ok(sealed) => self.write_credential(tx, id, &sealed).await?,
                    Err(error) => {
                        return Err(error.into());
                    }
                }
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
        let changed = self
            .execute(sqlx::query(SET_STATUS).bind(id.0).bind(status.as_str()))
            .await?;
        Ok(changed > 0)
    }
}

impl SqliteStore {
    /// A minimal tenant; never one of another workspace.
    async fn ensure_tenant(
        &self,
        tx: &mut SqliteConnection,
        new: &NewConnection,
    ) -> Result<(), StoreError> {
        sqlx::query(INSERT_TENANT)
            .bind(new.tenant_id.0)
            .bind(new.workspace_id.0)
            .execute(&mut *tx)
            .await?;
        let workspace: Option<i64> = sqlx::query_scalar(TENANT_WORKSPACE)
            .bind(new.tenant_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        match workspace {
            Some(workspace) if workspace != new.workspace_id.0 => Err(StoreError::Refused(
                format!("tenant {} belongs to another workspace", new.tenant_id),
            )),
            _ => Ok(()),
        }
    }
}
