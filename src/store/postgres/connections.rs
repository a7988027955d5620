//! Provider connections and their credentials.

use super::bounds::{is_valid_connection, short};
use super::earlier::{carries_fingerprint, latest_report_of_connection};
use super::{PostgresStore, Tx, commit, rollback};
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::store::{AddConnectionError, FoundCredential, Seal, StartingPoint, StoreError};
use crate::ports::vault::SealedCredential;
use crate::store::facts::{FactsPart, facts_columns};
use crate::store::rows::{self, ConnectionRow, ConnectionWithCredentialRow};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, PgConnection, Row as _};

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
            ", c.created_at::timestamptz AS created_at, c.updated_at::timestamptz AS updated_at"
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
             octet_length(k.payload)::bigint AS credential_bytes, \
             k.expires_at::timestamptz AS credential_expires_at, \
             k.updated_at::timestamptz AS credential_updated_at"
        )
    };
}

/// The newest, where another application's table allows several.
const CONNECTION: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    " FROM provider_connections c \
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id \
      WHERE c.id = $1 ORDER BY k.id DESC NULLS LAST LIMIT 1"
);

const CONNECTIONS: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM provider_connections c \
      WHERE ($1::bigint IS NULL OR c.tenant_id = $1) AND ($2::bigint IS NULL OR c.id > $2) AND ",
    is_valid_connection!(),
    " ORDER BY c.id LIMIT $3"
);

const CREDENTIALS: &str = concat!(
    "SELECT DISTINCT ON (c.id) ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    " FROM provider_connections c \
      JOIN provider_credentials k ON k.provider_connection_id = c.id \
      WHERE ($1::bigint IS NULL OR c.id > $1) ORDER BY c.id, k.id DESC LIMIT $2"
);

const OWNS_TENANTS: &str = "\
    SELECT EXISTS (SELECT FROM verifyd.owned_tables o \
        WHERE o.table_name = 'tenants' \
        AND to_regclass(format('%I.%I', o.table_schema, o.table_name)) = to_regclass('tenants'))";

const INSERT_TENANT: &str = "\
    INSERT INTO tenants (id, workspace_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";

const TENANT_WORKSPACE: &str = "SELECT workspace_id FROM tenants WHERE id = $1";

const INSERT_CONNECTION: &str = "\
    INSERT INTO provider_connections (workspace_id, tenant_id, provider, display_name, status, \
        entra_tenant_id, client_id, cloud, module, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, 'enabled', $5, $6, $7, $8, now(), now()) RETURNING id";

const SET_STATUS: &str = "\
    UPDATE provider_connections SET status = $2, updated_at = now() WHERE id = $1";

const LOCK_CONNECTION: &str = "\
    SELECT 1 FROM provider_connections WHERE id = $1 FOR NO KEY UPDATE";

const UPDATE_CREDENTIAL: &str = "\
    UPDATE provider_credentials \
    SET kind = $2, payload = $3, expires_at = $4, updated_at = now() \
    WHERE provider_connection_id = $1";

const INSERT_CREDENTIAL: &str = "\
    INSERT INTO provider_credentials \
        (provider_connection_id, kind, payload, expires_at, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, now(), now())";

const SWAP_PAYLOAD: &str = "\
    UPDATE provider_credentials SET payload = $3, updated_at = now() \
    WHERE provider_connection_id = $1 AND payload = $2";

/// The newest credential, where another application's table allows several.
const START: &str = concat!(
    "SELECT ",
    connection_columns!(),
    ", ",
    credential_columns!(),
    ", l.operation_run_id AS latest_run_id, ",
    facts_columns!(),
    " FROM provider_connections c \
      LEFT JOIN LATERAL (SELECT * FROM provider_credentials n \
                         WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true \
      LEFT JOIN ",
    latest_report_of_connection!(carries_fingerprint!()),
    " LEFT JOIN verifyd.connection_facts f ON f.connection_id = c.id WHERE c.id = ANY($1)"
);

impl PostgresStore {
    pub(super) async fn read_connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<ConnectionWithCredentialRow> = self
            .rows(CONNECTION)
            .bind(id.0)
            .fetch_optional(&mut *tx)
            .await?;
        commit(tx).await?;
        found.map(TryInto::try_into).transpose()
    }

    pub(super) async fn read_starting_point(
        &self,
        id: ConnectionId,
    ) -> Result<Option<StartingPoint>, StoreError> {
        let mut tx = self.begin().await?;
        let found = self.starting_points(&mut tx, &[id.0]).await?.pop();
        commit(tx).await?;
        found.transpose()
    }

    /// What checks of these connections start from, as far as they are there; one that cannot be read is
    /// an error of its own.
    pub(super) async fn starting_points(
        &self,
        connection: &mut PgConnection,
        ids: &[i64],
    ) -> Result<Vec<Result<StartingPoint, StoreError>>, StoreError> {
        let rows = self.sql(START).bind(ids).fetch_all(connection).await?;
        let read = |row: &PgRow| {
            let latest: Option<i64> = row.try_get("latest_run_id")?;
            let facts = FactsPart::from_row(row)?;
            let row = ConnectionWithCredentialRow::from_row(row)?;
            let (connection, credential) = row.try_into()?;
            Ok(StartingPoint {
                facts: facts.kept(connection.id)?,
                connection,
                credential,
                latest_run: latest.map(RunId),
            })
        };
        Ok(rows.iter().map(read).collect())
    }

    pub(super) async fn list_connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<ConnectionRow> = self
            .rows(CONNECTIONS)
            .bind(tenant.map(|t| t.0))
            .bind(after.map(|c| c.0))
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
        commit(tx).await?;
        rows::all(found)
    }

    pub(super) async fn list_credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<ConnectionWithCredentialRow> = self
            .rows(CREDENTIALS)
            .bind(after.map(|c| c.0))
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(rows::credentials(found))
    }

    pub(super) async fn insert_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError> {
        let mut tx = self.begin().await?;
        self.ensure_tenant(&mut tx, new).await?;
        let id: i64 = self
            .scalar(INSERT_CONNECTION)
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

    /// A minimal tenant where `tenants` is verifyd's own; never one of another workspace.
    async fn ensure_tenant(&self, tx: &mut Tx, new: &NewConnection) -> Result<(), StoreError> {
        let owned: bool = self.scalar(OWNS_TENANTS).fetch_one(&mut **tx).await?;
        if !owned {
            return Ok(());
        }
        self.sql(INSERT_TENANT)
            .bind(new.tenant_id.0)
            .bind(new.workspace_id.0)
            .execute(&mut **tx)
            .await?;
        let workspace: Option<i64> = self
            .scalar(TENANT_WORKSPACE)
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
        let changed = self
            .sql(SET_STATUS)
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
        // Two callers take turns, also where the table has no unique key to rely on.
        let there = self
            .scalar::<i32>(LOCK_CONNECTION)
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
            let written = self
                .sql(statement)
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
        let swapped = self
            .sql(SWAP_PAYLOAD)
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
