//! Provider connections and their credentials.

use super::bounds::{is_valid_connection, short};
use super::together::StartRequest;
use super::{SqliteStore, Tx, commit, now, rollback};
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::store::{AddConnectionError, FoundCredential, Seal, StartingPoint, StoreError};
use crate::ports::vault::SealedCredential;
use crate::store::rows::{self, ConnectionRow, ConnectionWithCredentialRow};
use crate::store::together::together;

macro_rules! connection_columns {
    () => {
        concat!(
            "c.id, c.workspace_id, c.tenant_id",
            ", ",
            short!("c.provider"),
            " AS provider",
            ", ",
            short!("c.display_name"),
            " AS display_name",
            ", ",
            short!("c.status"),
            " AS status",
            ", ",
            short!("c.entra_tenant_id"),
            " AS entra_tenant_id",
            ", ",
            short!("c.client_id"),
            " AS client_id",
            ", ",
            short!("c.cloud"),
            " AS cloud",
            ", ",
            short!("c.module"),
            " AS module",
            ", c.created_at AS created_at, c.updated_at AS updated_at"
        )
    };
}

pub(super) use connection_columns;

/// Of `provider_credentials k`. A payload that is too large is NULL, and its length is told.
macro_rules! credential_columns {
    () => {
        concat!(
            "k.id AS credential_id, ",
            short!("k.kind"),
            " AS credential_kind, \
             CASE WHEN octet_length(k.payload) <= 262144 THEN k.payload END AS credential_payload, \
             octet_length(k.payload) AS credential_bytes, \
             k.expires_at AS credential_expires_at, \
             k.updated_at AS credential_updated_at"
        )
    };
}

pub(super) use credential_columns;

const CONNECTION: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    " FROM provider_connections c \
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id \
      WHERE c.id = $1"
);

const CONNECTIONS: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM provider_connections c \
      WHERE ($1 IS NULL OR c.tenant_id = $1) AND ($2 IS NULL OR c.id > $2) AND ",
    is_valid_connection!(),
    " ORDER BY c.id LIMIT $3"
);

const CREDENTIALS: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    " FROM provider_connections c \
      JOIN provider_credentials k ON k.provider_connection_id = c.id \
      WHERE ($1 IS NULL OR c.id > $1) ORDER BY c.id LIMIT $2"
);

const INSERT_TENANT: &str = "\
    INSERT INTO tenants (id, workspace_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";

const TENANT_WORKSPACE: &str = "SELECT workspace_id FROM tenants WHERE id = $1";

const INSERT_CONNECTION: &str = concat!(
    "INSERT INTO provider_connections (workspace_id, tenant_id, provider, display_name, status, \
        entra_tenant_id, client_id, cloud, module, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, 'enabled', $5, $6, $7, $8, ",
    now!(),
    ", ",
    now!(),
    ") RETURNING id"
);

const SET_STATUS: &str = concat!(
    "UPDATE provider_connections SET status = $2, updated_at = ",
    now!(),
    " WHERE id = $1"
);

const EXISTS: &str = "SELECT 1 FROM provider_connections WHERE id = $1";

const UPDATE_CREDENTIAL: &str = concat!(
    "UPDATE provider_credentials \
    SET kind = $2, payload = $3, expires_at = $4, updated_at = ",
    now!(),
    " WHERE provider_connection_id = $1"
);

const INSERT_CREDENTIAL: &str = concat!(
    "INSERT INTO provider_credentials \
        (provider_connection_id, kind, payload, expires_at, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, ",
    now!(),
    ", ",
    now!(),
    ")"
);

const SWAP_PAYLOAD: &str = concat!(
    "UPDATE provider_credentials SET payload = $3, updated_at = ",
    now!(),
    " WHERE provider_connection_id = $1 AND payload = $2"
);

impl SqliteStore {
    pub(super) async fn read_connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        let found: Option<ConnectionWithCredentialRow> = sqlx::query_as(CONNECTION)
            .bind(id.0)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.map(TryInto::try_into).transpose()
    }

    pub(super) async fn read_starting_point(
        &self,
        id: ConnectionId,
    ) -> Result<Option<StartingPoint>, StoreError> {
        if let Some(found) = together(self, StartRequest(id)).await {
            return Ok(found);
        }
        let Some((connection, credential)) = self.read_connection(id).await? else {
            return Ok(None);
        };
        let latest = self.read_latest_report(id).await?;
        Ok(Some(StartingPoint {
            connection,
            credential,
            latest_run: latest.map(|latest| latest.operation_run_id),
            // What is learnt again is kept again.
            facts: None,
        }))
    }

    pub(super) async fn list_connections(
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

    pub(super) async fn list_credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        let found: Vec<ConnectionWithCredentialRow> = sqlx::query_as(CREDENTIALS)
            .bind(after.map(|c| c.0))
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reader().await?)
            .await?;
        Ok(rows::credentials(found))
    }

    pub(super) async fn insert_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError> {
        let mut tx = self.begin().await?;
        self.ensure_tenant(&mut tx, new).await?;
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
                Ok(sealed) => self.write_credential(&mut tx, id, &sealed).await?,
                Err(error) => {
                    rollback(tx).await?;
                    return Err(error.into());
                }
            }
        }
        commit(tx).await?;
        Ok(id)
    }

    /// A minimal tenant; never one of another workspace.
    async fn ensure_tenant(&self, tx: &mut Tx, new: &NewConnection) -> Result<(), StoreError> {
        sqlx::query(INSERT_TENANT)
            .bind(new.tenant_id.0)
            .bind(new.workspace_id.0)
            .execute(&mut **tx)
            .await?;
        let workspace: Option<i64> = sqlx::query_scalar(TENANT_WORKSPACE)
            .bind(new.tenant_id.0)
            .fetch_optional(&mut **tx)
            .await?;
        match workspace {
            Some(workspace) if workspace != new.workspace_id.0 => Err(StoreError::Refused(
                format!("tenant {} belongs to another workspace", new.tenant_id),
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn update_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query(SET_STATUS)
            .bind(id.0)
            .bind(status.as_str())
            .execute(&mut *tx)
            .await?
            .rows_affected();
        commit(tx).await?;
        Ok(changed > 0)
    }

    pub(super) async fn replace_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let there = sqlx::query_scalar::<_, i32>(EXISTS)
            .bind(id.0)
            .fetch_optional(&mut *tx)
            .await?;
        if there.is_none() {
            rollback(tx).await?;
            return Err(StoreError::Refused(format!("there is no connection {id}")));
        }
        self.write_credential(&mut tx, id, sealed).await?;
        commit(tx).await?;
        self.forget_expiry(id).await;
        Ok(())
    }

    async fn write_credential(
        &self,
        tx: &mut Tx,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError> {
        for statement in [UPDATE_CREDENTIAL, INSERT_CREDENTIAL] {
            let written = sqlx::query(statement)
                .bind(id.0)
                .bind(sealed.kind.as_str())
                .bind(&sealed.payload)
                .bind(sealed.expires_at)
                .execute(&mut **tx)
                .await?
                .rows_affected();
            if written > 0 {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn swap_payload(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let swapped = sqlx::query(SWAP_PAYLOAD)
            .bind(id.0)
            .bind(old_payload)
            .bind(new_payload)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        commit(tx).await?;
        Ok(swapped > 0)
    }
}
