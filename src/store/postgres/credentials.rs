//! Stored credentials, sealed.

use super::PostgresStore;
use super::connections::connection_columns;
use crate::domain::ConnectionId;
use crate::ports::credentials::{CredentialStore, FoundCredential};
use crate::ports::store_error::StoreError;
use crate::ports::vault::SealedCredential;
use crate::store::rows;
use crate::store::rows::ConnectionWithCredentialRow;
use crate::store::sql::sql;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
/// The columns of `provider_credentials k`. A payload that is too large is NULL, with its length.
macro_rules! credential_columns {
    () => {
        $crate::store::sql::sql!(
            "k.id AS credential_id, " $crate::store::postgres::bounds::short!("k.kind")
            " AS credential_kind,
             CASE WHEN octet_length(k.payload) <= 262144 THEN k.payload END AS credential_payload,
             octet_length(k.payload)::bigint AS credential_bytes,
             k.expires_at::timestamptz AS credential_expires_at,
             k.updated_at::timestamptz AS credential_updated_at"
        )
    };
}
pub(super) use credential_columns;

const CREDENTIALS: &str = sql!(
    "SELECT DISTINCT ON (c.id) " connection_columns!() ", " credential_columns!()
    " FROM provider_connections c
      JOIN provider_credentials k ON k.provider_connection_id = c.id
      WHERE ($1::bigint IS NULL OR c.id > $1) ORDER BY c.id, k.id DESC LIMIT $2"
);

const LOCK_CONNECTION: &str = "
    SELECT 1 FROM provider_connections WHERE id = $1 FOR NO KEY UPDATE";

const UPDATE_CREDENTIAL: &str = "
    UPDATE provider_credentials
    SET kind = $2, payload = $3, expires_at = $4, updated_at = now()
    WHERE provider_connection_id = $1";

const INSERT_CREDENTIAL: &str = "
    INSERT INTO provider_credentials
        (provider_connection_id, kind, payload, expires_at, created_at, updated_at)
    VALUES ($1, $2, $3, $4, now(), now())";

/// The credential stays the same, so `updated_at`, which identifies it, stays.
const SET_EXPIRY: &str = "
    UPDATE provider_credentials SET expires_at = $2 WHERE id =
        (SELECT max(id) FROM provider_credentials WHERE provider_connection_id = $1)";

const SWAP_PAYLOAD: &str = "
    UPDATE provider_credentials SET payload = $3, updated_at = now()
    WHERE provider_connection_id = $1 AND payload = $2";

#[async_trait]
impl CredentialStore for PostgresStore {
    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            // Serialises two callers, also where the table has no unique key.
            let there = self
                .scalar::<i32>(LOCK_CONNECTION)
                .bind(id.0)
                .fetch_optional(&mut *tx)
                .await?;
            if there.is_none() {
                return Err(StoreError::Refused(format!("there is no connection {id}")));
            }
            self.write_credential(tx, id, sealed).await
        })
        .await?;
        self.forget_expiry(id).await;
        Ok(())
    }

    async fn set_credential_expiry(
        &self,
        id: ConnectionId,
        expires_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let query = self.sql(SET_EXPIRY).bind(id.0).bind(expires_at);
        let set = self.execute(query).await?;
        self.forget_expiry(id).await;
        Ok(set > 0)
    }

    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        self.transaction(async |tx| {
            let found: Vec<ConnectionWithCredentialRow> = self
                .rows(CREDENTIALS)
                .bind(after.map(|c| c.0))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await?;
            Ok(rows::credentials(found))
        })
        .await
    }

    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
    ) -> Result<bool, StoreError> {
        let query = self
            .sql(SWAP_PAYLOAD)
            .bind(id.0)
            .bind(old_payload)
            .bind(new_payload);
        let swapped = self.execute(query).await?;
        Ok(swapped > 0)
    }
}

impl PostgresStore {
    pub(super) async fn write_credential(
        &self,
        tx: &mut PgConnection,
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
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if written > 0 {
                break;
            }
        }
        Ok(())
    }
}
