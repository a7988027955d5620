//! What checks have learnt of connections.

use super::{PostgresStore, commit};
use crate::domain::ConnectionId;
use crate::domain::connection_facts::KeptFacts;
use crate::ports::store::StoreError;

/// When the expiry was found stays, while it is the same one.
const KEEP: &str = "\
    INSERT INTO verifyd.connection_facts AS f \
        (connection_id, tenant_id, entra_tenant_id, client_id, owner_tenant_id, service_principal_id, \
         entra_tenant_name, credential_changed_at, credential_expires_at, expiry_source, \
         expiry_found_at, found_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $10::text IS NOT NULL THEN now() END, now()) \
    ON CONFLICT (connection_id) DO UPDATE \
    SET tenant_id = excluded.tenant_id, entra_tenant_id = excluded.entra_tenant_id, \
        client_id = excluded.client_id, owner_tenant_id = excluded.owner_tenant_id, \
        service_principal_id = excluded.service_principal_id, \
        entra_tenant_name = excluded.entra_tenant_name, \
        credential_changed_at = excluded.credential_changed_at, \
        credential_expires_at = excluded.credential_expires_at, \
        expiry_source = excluded.expiry_source, \
        expiry_found_at = CASE \
            WHEN (f.credential_changed_at, f.credential_expires_at, f.expiry_source) \
                IS NOT DISTINCT FROM (excluded.credential_changed_at, \
                    excluded.credential_expires_at, excluded.expiry_source) \
            THEN f.expiry_found_at ELSE excluded.expiry_found_at END, \
        found_at = excluded.found_at";

/// The credential is another one now.
const FORGET_EXPIRY: &str = "\
    UPDATE verifyd.connection_facts \
    SET credential_expires_at = NULL, expiry_source = NULL, expiry_found_at = NULL \
    WHERE connection_id = $1 AND expiry_source IS NOT NULL";

impl PostgresStore {
    pub(super) async fn write_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        let expiry = kept.facts.expiry;
        let mut tx = self.begin().await?;
        self.sql(KEEP)
            .bind(kept.connection_id.0)
            .bind(kept.tenant_id.0)
            .bind(&kept.entra_tenant_id)
            .bind(&kept.client_id)
            .bind(&kept.facts.owner_tenant_id)
            .bind(&kept.facts.service_principal_id)
            .bind(&kept.facts.entra_tenant_name)
            .bind(kept.credential_changed_at)
            .bind(expiry.and_then(|expiry| expiry.expires_at))
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
            let forget = self.sql(FORGET_EXPIRY).bind(id.0);
            forget.execute(&mut *tx).await?;
            commit(tx).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "the old expiry of the credential is not removed; the next check replaces it");
        }
    }
}
