//! Stored credentials, sealed.

use super::audit::{Owner, owner, owner_columns, owner_of_connection, record};
use super::bounds::short;
use super::connections::connection_columns;
use super::dialect::{at, each, moment, now, postgres_only};
use super::rows::{self, ConnectionWithCredentialRow};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, fetch_all, transaction};
use super::starting_point::forget_expiry;
use super::statement::Sql;
use crate::domain::ConnectionId;
use crate::domain::audit::{AuditAction, Change, Origin, credential_facts, second};
use crate::ports::credentials::{CredentialStore, FoundCredential};
use crate::ports::store_error::StoreError;
use crate::ports::vault::SealedCredential;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// The columns of `provider_credentials k`. A payload that is too large is NULL, with its length.
macro_rules! credential_columns {
    ($db:ident) => {
        $crate::store::sql::sql_for!(
            $db "k.id AS credential_id, " short!("k.kind") " AS credential_kind,
             CASE WHEN octet_length(k.payload) <= 262144 THEN k.payload END AS credential_payload,
             CAST(octet_length(k.payload) AS bigint) AS credential_bytes, "
            at!("k.expires_at") " AS credential_expires_at, "
            at!("k.updated_at") " AS credential_updated_at"
        )
    };
}
pub(super) use credential_columns;

/// The newest of each connection, where another application's table allows several.
const CREDENTIALS: Sql = both!(
    "SELECT " postgres_only!("DISTINCT ON (c.id) ") connection_columns!() ", " credential_columns!()
    " FROM provider_connections c JOIN provider_credentials k ON k.provider_connection_id = c.id
      WHERE $1 IS NULL OR c.id > $1 ORDER BY c.id, k.id DESC LIMIT $2"
);

/// Serialises two callers, also where the table has no unique key.
const LOCK_CONNECTION: Sql = both!(
    "SELECT " owner_columns!() " FROM provider_connections WHERE id = $1"
    postgres_only!(" FOR NO KEY UPDATE")
);

/// What an entry of the audit trail keeps: see [`credential_facts`].
const FACTS: Sql = both!(
    "SELECT " short!("kind") ", " each!("to_char((", "strftime('%Y-%m-%dT%H:%M:%SZ', ")
    moment!("expires_at")
    each!(") AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", ")")
    " FROM provider_credentials WHERE provider_connection_id = $1 ORDER BY id DESC LIMIT 1"
);

const UPDATE_CREDENTIAL: Sql = both!(
    "UPDATE provider_credentials SET kind = $2, payload = $3, expires_at = $4, updated_at = " now!()
    " WHERE provider_connection_id = $1"
);

const INSERT_CREDENTIAL: Sql = both!(
    "INSERT INTO provider_credentials
        (provider_connection_id, kind, payload, expires_at, created_at, updated_at)
     VALUES ($1, $2, $3, $4, " now!() ", " now!() ")"
);

/// The credential stays the same, so `updated_at`, which identifies it, stays.
const SET_EXPIRY: Sql = both!(
    "UPDATE provider_credentials SET expires_at = $2 WHERE id =
        (SELECT max(id) FROM provider_credentials WHERE provider_connection_id = $1)"
);

/// As [`SET_EXPIRY`]: `updated_at` says when the credential was stored, however it is encrypted since then.
const SWAP_PAYLOAD: Sql = both!(
    "UPDATE provider_credentials SET payload = $3
      WHERE provider_connection_id = $1 AND payload = $2"
);

#[async_trait]
impl<S: SqlStore> CredentialStore for S {
    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
        by: &Origin,
    ) -> Result<(), StoreError> {
        transaction(self, async |tx| {
            let there: Option<Owner> = LOCK_CONNECTION.bind(id.0).fetch_optional(tx).await?;
            let Some(there) = there else {
                let why = format!("there is no connection {id}");
                return Err(StoreError::Refused(why.into()));
            };
            let before = facts(tx, id).await?;
            write_credential(tx, id, sealed).await?;
            let action = AuditAction::CredentialReplaced;
            let after = credential_facts(sealed.kind.as_str(), sealed.expires_at);
            let mut change = Change::new(action, id.0, owner(there)).after(after);
            change.before = before;
            record(tx, &change, by).await
        })
        .await?;
        forget_expiry(self, id).await;
        Ok(())
    }

    async fn set_credential_expiry(
        &self,
        id: ConnectionId,
        expires_at: DateTime<Utc>,
        by: &Origin,
    ) -> Result<bool, StoreError> {
        let set = transaction(self, async |tx| {
            let there: Option<Owner> = LOCK_CONNECTION.bind(id.0).fetch_optional(tx).await?;
            let before = facts(tx, id).await?;
            let (Some(there), Some(before)) = (there, before) else {
                return Ok(false);
            };
            // Whoever deletes the credential does not wait for the lock of the connection.
            if SET_EXPIRY.bind(id.0).bind(expires_at).execute(tx).await? == 0 {
                return Ok(false);
            }
            let mut after = before.clone();
            after["expires_at"] = json!(second(expires_at));
            if before != after {
                let change = Change::new(AuditAction::CredentialExpirySet, id.0, owner(there));
                record(tx, &change.before(before).after(after), by).await?;
            }
            Ok::<bool, StoreError>(true)
        })
        .await?;
        forget_expiry(self, id).await;
        Ok(set)
    }

    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError> {
        let credentials = CREDENTIALS.bind(after.map(|c| c.0)).bind(limit);
        let found: Vec<ConnectionWithCredentialRow> = fetch_all(self, credentials).await?;
        Ok(rows::credentials(found))
    }

    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
        by: &Origin,
    ) -> Result<bool, StoreError> {
        let swap = SWAP_PAYLOAD.bind(id.0).bind(old_payload).bind(new_payload);
        transaction(self, async |tx| {
            if swap.execute(tx).await? == 0 {
                return Ok(false);
            }
            let owner = owner_of_connection(tx, id).await?;
            let change = Change::new(AuditAction::CredentialResealed, id.0, owner);
            record(tx, &change, by).await?;
            Ok(true)
        })
        .await
    }
}

/// Returns what an entry of the audit trail keeps of the stored credential.
async fn facts(tx: &mut dyn SqlConnection, id: ConnectionId) -> Result<Option<Value>, StoreError> {
    let stored: Option<(Option<String>, Option<String>)> =
        FACTS.bind(id.0).fetch_optional(tx).await?;
    Ok(stored.map(|(kind, expires_at)| json!({ "kind": kind, "expires_at": expires_at })))
}

/// Replaces the credential of a connection that exists.
pub(super) async fn write_credential(
    tx: &mut dyn SqlConnection,
    id: ConnectionId,
    sealed: &SealedCredential,
) -> Result<(), StoreError> {
    for sql in [UPDATE_CREDENTIAL, INSERT_CREDENTIAL] {
        let write = sql
            .bind(id.0)
            .bind(sealed.kind.as_str())
            .bind(&sealed.payload)
            .bind(sealed.expires_at);
        if write.execute(tx).await? > 0 {
            break;
        }
    }
    Ok(())
}
