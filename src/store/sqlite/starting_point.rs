//! Starting points of checks, and facts about connections.

use super::connections::connection_columns;
use super::credentials::credential_columns;
use super::reused_ids::{carries_fingerprint, latest_report_of_connection};
use super::{SqliteStore, json_list, now};
use crate::domain::ConnectionId;
use crate::domain::connection_facts::KeptFacts;
use crate::ports::starting_point::{StartingPoint, StartingPointStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use crate::store::starting_point::{self, facts_columns};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::SqliteConnection;

const START: &str = sql!(
    "SELECT " connection_columns!() ", " credential_columns!() ", l.operation_run_id AS latest_run_id, "
    facts_columns!() " FROM json_each($1) w CROSS JOIN provider_connections c ON c.id = w.value
      LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id
      LEFT JOIN verifyd_connection_facts f ON f.connection_id = c.id
      LEFT JOIN " latest_report_of_connection!(carries_fingerprint!())
);

/// When the expiry was found stays, while it is the same one.
const KEEP: &str = sql!(
    "INSERT INTO verifyd_connection_facts AS f
        (connection_id, tenant_id, entra_tenant_id, client_id, owner_tenant_id, service_principal_id,
         entra_tenant_name, credential_changed_at, credential_expires_at, expiry_source,
         expiry_found_at, found_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $10 IS NOT NULL THEN " now!() " END, "
    now!() ") ON CONFLICT (connection_id) DO UPDATE
    SET tenant_id = excluded.tenant_id, entra_tenant_id = excluded.entra_tenant_id,
        client_id = excluded.client_id, owner_tenant_id = excluded.owner_tenant_id,
        service_principal_id = excluded.service_principal_id,
        entra_tenant_name = excluded.entra_tenant_name,
        credential_changed_at = excluded.credential_changed_at,
        credential_expires_at = excluded.credential_expires_at,
        expiry_source = excluded.expiry_source,
        expiry_found_at = CASE
            WHEN f.credential_changed_at IS excluded.credential_changed_at
                AND f.credential_expires_at IS excluded.credential_expires_at
                AND f.expiry_source IS excluded.expiry_source
            THEN f.expiry_found_at ELSE excluded.expiry_found_at END,
        found_at = excluded.found_at"
);

/// The credential is another one now.
const FORGET_EXPIRY: &str = "
    UPDATE verifyd_connection_facts
    SET credential_expires_at = NULL, expiry_source = NULL, expiry_found_at = NULL
    WHERE connection_id = $1 AND expiry_source IS NOT NULL";

/// As the database's own times are written, so that they compare as texts.
fn text(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[async_trait]
impl StartingPointStore for SqliteStore {
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError> {
        let mut reader = self.reader().await?;
        let found = self.starting_points(&mut reader, &[id.0]).await?.pop();
        found.transpose()
    }

    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        let expiry = kept.facts.expiry;
        let query = sqlx::query(KEEP)
            .bind(kept.connection_id.0)
            .bind(kept.tenant_id.0)
            .bind(&kept.entra_tenant_id)
            .bind(&kept.client_id)
            .bind(&kept.facts.owner_tenant_id)
            .bind(&kept.facts.service_principal_id)
            .bind(&kept.facts.entra_tenant_name)
            .bind(text(kept.credential_changed_at))
            .bind(text(expiry.and_then(|expiry| expiry.expires_at)))
            .bind(expiry.map(|expiry| expiry.source.as_str()));
        self.execute(query).await?;
        Ok(())
    }
}

impl SqliteStore {
    /// Returns the starting points for these connections, as far as they exist; one that cannot be read is an
    /// error of its own.
    pub(super) async fn starting_points(
        &self,
        connection: &mut SqliteConnection,
        ids: &[i64],
    ) -> Result<Vec<Result<StartingPoint, StoreError>>, StoreError> {
        let rows = sqlx::query(START).bind(json_list(ids.iter())?);
        let rows = rows.fetch_all(connection).await?;
        Ok(rows.iter().map(starting_point::starting_point).collect())
    }

    /// The stored credential is another one. Lists may show the old date where this fails; checks never
    /// do.
    pub(super) async fn forget_expiry(&self, id: ConnectionId) {
        let forget = self.execute(sqlx::query(FORGET_EXPIRY).bind(id.0));
        if let Err(error) = forget.await {
            tracing::warn!(%error, "cannot remove the old expiry of the credential; the next check replaces it");
        }
    }
}
