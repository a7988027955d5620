//! Starting points of checks, and facts about connections.

use super::PostgresStore;
use super::connections::connection_columns;
use super::credentials::credential_columns;
use super::reused_ids::{carries_fingerprint, latest_report_of_connection};
use crate::domain::ConnectionId;
use crate::domain::connection_facts::KeptFacts;
use crate::ports::starting_point::{StartingPoint, StartingPointStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use crate::store::starting_point::{self, facts_columns};
use async_trait::async_trait;
use sqlx::PgConnection;

/// The newest credential, where another application's table allows several.
const START: &str = sql!(
    "SELECT " connection_columns!() ", " credential_columns!() ", l.operation_run_id AS latest_run_id, "
    facts_columns!() " FROM provider_connections c
      LEFT JOIN LATERAL (SELECT * FROM provider_credentials n
                         WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true
      LEFT JOIN " latest_report_of_connection!(carries_fingerprint!())
    " LEFT JOIN verifyd.connection_facts f ON f.connection_id = c.id WHERE c.id = ANY($1)"
);

/// When the expiry was found stays, while it is the same one.
const KEEP: &str = "
    INSERT INTO verifyd.connection_facts AS f
        (connection_id, tenant_id, entra_tenant_id, client_id, owner_tenant_id, service_principal_id,
         entra_tenant_name, credential_changed_at, credential_expires_at, expiry_source,
         expiry_found_at, found_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $10::text IS NOT NULL THEN now() END, now())
    ON CONFLICT (connection_id) DO UPDATE
    SET tenant_id = excluded.tenant_id, entra_tenant_id = excluded.entra_tenant_id,
        client_id = excluded.client_id, owner_tenant_id = excluded.owner_tenant_id,
        service_principal_id = excluded.service_principal_id,
        entra_tenant_name = excluded.entra_tenant_name,
        credential_changed_at = excluded.credential_changed_at,
        credential_expires_at = excluded.credential_expires_at,
        expiry_source = excluded.expiry_source,
        expiry_found_at = CASE
            WHEN (f.credential_changed_at, f.credential_expires_at, f.expiry_source)
                IS NOT DISTINCT FROM (excluded.credential_changed_at,
                    excluded.credential_expires_at, excluded.expiry_source)
            THEN f.expiry_found_at ELSE excluded.expiry_found_at END,
        found_at = excluded.found_at";

/// The credential is another one now.
const FORGET_EXPIRY: &str = "
    UPDATE verifyd.connection_facts
    SET credential_expires_at = NULL, expiry_source = NULL, expiry_found_at = NULL
    WHERE connection_id = $1 AND expiry_source IS NOT NULL";

#[async_trait]
impl StartingPointStore for PostgresStore {
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError> {
        self.transaction(async |tx| {
            let found = self.starting_points(tx, &[id.0]).await?.pop();
            found.transpose()
        })
        .await
    }

    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        let expiry = kept.facts.expiry;
        let query = self
            .sql(KEEP)
            .bind(kept.connection_id.0)
            .bind(kept.tenant_id.0)
            .bind(&kept.entra_tenant_id)
            .bind(&kept.client_id)
            .bind(&kept.facts.owner_tenant_id)
            .bind(&kept.facts.service_principal_id)
            .bind(&kept.facts.entra_tenant_name)
            .bind(kept.credential_changed_at)
            .bind(expiry.and_then(|expiry| expiry.expires_at))
            .bind(expiry.map(|expiry| expiry.source.as_str()));
        self.execute(query).await?;
        Ok(())
    }
}

impl PostgresStore {
    /// Returns the starting points for these connections, as far as they exist; one that cannot be read is an
    /// error of its own.
    pub(super) async fn starting_points(
        &self,
        connection: &mut PgConnection,
        ids: &[i64],
    ) -> Result<Vec<Result<StartingPoint, StoreError>>, StoreError> {
        let rows = self.sql(START).bind(ids).fetch_all(connection).await?;
        Ok(rows.iter().map(starting_point::starting_point).collect())
    }

    /// The stored credential is another one. Lists may show the old date where this fails; checks never
    /// do.
    pub(super) async fn forget_expiry(&self, id: ConnectionId) {
        let forget = self.execute(self.sql(FORGET_EXPIRY).bind(id.0));
        if let Err(error) = forget.await {
            tracing::warn!(%error, "cannot remove the old expiry of the credential; the next check replaces it");
        }
    }
}
