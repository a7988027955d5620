//! What checks have learnt of connections.

use super::{SqliteStore, commit, now};
use crate::domain::ConnectionId;
use crate::domain::connection_facts::KeptFacts;
use crate::ports::store::StoreError;
use chrono::{DateTime, SecondsFormat, Utc};

/// When the expiry was found stays, while it is the same one.
const KEEP: &str = concat!(
    "INSERT INTO verifyd_connection_facts AS f \
        (connection_id, tenant_id, entra_tenant_id, client_id, owner_tenant_id, service_principal_id, \
         entra_tenant_name, credential_changed_at, credential_expires_at, expiry_source, \
         expiry_found_at, found_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $10 IS NOT NULL THEN ",
    now!(),
    " END, ",
    now!(),
    ") ON CONFLICT (connection_id) DO UPDATE \
    SET tenant_id = excluded.tenant_id, entra_tenant_id = excluded.entra_tenant_id, \
        client_id = excluded.client_id, owner_tenant_id = excluded.owner_tenant_id, \
        service_principal_id = excluded.service_principal_id, \
        entra_tenant_name = excluded.entra_tenant_name, \
        credential_changed_at = excluded.credential_changed_at, \
        credential_expires_at = excluded.credential_expires_at, \
        expiry_source = excluded.expiry_source, \
        expiry_found_at = CASE \
            WHEN f.credential_changed_at IS excluded.credential_changed_at \
                AND f.credential_expires_at IS excluded.credential_expires_at \
                AND f.expiry_source IS excluded.expiry_source \
            THEN f.expiry_found_at ELSE excluded.expiry_found_at END, \
        found_at = excluded.found_at"
);

/// The credential is another one now.
const FORGET_EXPIRY: &str = "\
    UPDATE verifyd_connection_facts \
    SET credential_expires_at = NULL, expiry_source = NULL, expiry_found_at = NULL \
    WHERE connection_id = $1 AND expiry_source IS NOT NULL";

/// As the database's own times are written, so that they compare as texts.
fn text(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

impl SqliteStore {
    pub(super) async fn write_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        let expiry = kept.facts.expiry;
        let mut tx = self.begin().await?;
        sqlx::query(KEEP)
            .bind(kept.connection_id.0)
            .bind(kept.tenant_id.0)
            .bind(&kept.entra_tenant_id)
            .bind(&kept.client_id)
            .bind(&kept.facts.owner_tenant_id)
            .bind(&kept.facts.service_principal_id)
            .bind(&kept.facts.entra_tenant_name)
            .bind(text(kept.credential_changed_at))
            .bind(text(expiry.and_then(|expiry| expiry.expires_at)))
            .bind(expiry.map(|expiry| expiry.source.as_str()))
            .execute(&mut *tx)
            .await?;
        commit(tx).await
    }

    /// The stored credential is another one. Lists may show the old date where this fails; checks never
    /// do.
    pub(super) async fn forget_expiry(&self, id: ConnectionId) {
        let forgotten = async {
            let mut tx = self.begin().await?;
            let forget = sqlx::query(FORGET_EXPIRY).bind(id.0);
            forget.execute(&mut *tx).await?;
            commit(tx).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "the old expiry of the credential is not removed; the next check replaces it");
        }
    }
}
