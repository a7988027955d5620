//! Starting points of checks, and facts about connections, as rows of both databases.

use super::from_row::from_row;
use super::rows::{ConnectionWithCredentialRow, name};
use crate::domain::connection_facts::{ConnectionFacts, CredentialExpiry, KeptFacts};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::starting_point::StartingPoint;
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

/// Columns of the table `f`, all NULL where a connection has no row.
macro_rules! facts_columns {
    () => {
        "f.tenant_id AS facts_tenant_id, f.entra_tenant_id AS facts_entra_tenant_id, \
         f.client_id AS facts_client_id, f.owner_tenant_id AS facts_owner_tenant_id, \
         f.service_principal_id AS facts_service_principal_id, \
         f.entra_tenant_name AS facts_entra_tenant_name, \
         f.credential_changed_at AS facts_credential_changed_at, \
         f.credential_expires_at AS facts_credential_expires_at, \
         f.expiry_source AS facts_expiry_source, f.expiry_found_at AS facts_expiry_found_at"
    };
}
pub(super) use facts_columns;

from_row! {
    #[derive(Debug)]
    pub(super) struct FactsPart {
        facts_tenant_id: Option<i64>,
        facts_entra_tenant_id: Option<String>,
        facts_client_id: Option<String>,
        facts_owner_tenant_id: Option<String>,
        facts_service_principal_id: Option<String>,
        facts_entra_tenant_name: Option<String>,
        facts_credential_changed_at: Option<DateTime<Utc>>,
        pub facts_credential_expires_at: Option<DateTime<Utc>>,
        pub facts_expiry_source: Option<String>,
        facts_expiry_found_at: Option<DateTime<Utc>>,
    }
}

impl FactsPart {
    /// The row of this connection; `None` where it has none.
    pub fn kept(self, connection: ConnectionId) -> Result<Option<KeptFacts>, StoreError> {
        let (Some(tenant), Some(entra_tenant_id), Some(client_id)) = (
            self.facts_tenant_id,
            self.facts_entra_tenant_id,
            self.facts_client_id,
        ) else {
            return Ok(None);
        };
        let source = self
            .facts_expiry_source
            .map(|source| name("connection_facts", "expiry_source", connection.0, &source))
            .transpose()?;
        Ok(Some(KeptFacts {
            connection_id: connection,
            tenant_id: TenantId(tenant),
            entra_tenant_id,
            client_id,
            credential_changed_at: self.facts_credential_changed_at,
            expiry_found_at: self.facts_expiry_found_at,
            facts: ConnectionFacts {
                owner_tenant_id: self.facts_owner_tenant_id,
                service_principal_id: self.facts_service_principal_id,
                entra_tenant_name: self.facts_entra_tenant_name,
                expiry: source.map(|source| CredentialExpiry {
                    expires_at: self.facts_credential_expires_at,
                    source,
                }),
                is_expiry_unknown: false,
            },
        }))
    }
}

/// A row of a connection with its credential, its facts and the run of its latest report.
pub(super) fn starting_point<'r, R: Row>(row: &'r R) -> Result<StartingPoint, StoreError>
where
    ConnectionWithCredentialRow: FromRow<'r, R>,
    FactsPart: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
{
    let latest: Option<i64> = row.try_get("latest_run_id")?;
    let facts = FactsPart::from_row(row)?;
    let (connection, credential) = ConnectionWithCredentialRow::from_row(row)?.try_into()?;
    Ok(StartingPoint {
        facts: facts.kept(connection.id)?,
        connection,
        credential,
        latest_run: latest.map(RunId),
    })
}
