//! Starting points of checks, and facts about connections.

use super::bounds::{connection_of_context, is_listable, member, short};
use super::connections::connection_columns;
use super::credentials::credential_columns;
use super::dialect::{a_second_after, at, each, is_about, moment, now, own, run_type};
use super::from_row::from_row;
use super::reused_ids::{facts_of_connection, is_before_creation, is_of_its_run_and_connection};
use super::rows::{ConnectionWithCredentialRow, optional_name};
use super::sql::{both, sql_for};
use super::sql_store::{FromSqlRow, SqlConnection, SqlStore, execute, read};
use super::statement::{Sql, Statement};
use crate::domain::connection_facts::{ConnectionFacts, CredentialExpiry, KeptFacts};
use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::starting_point::{StartingPoint, StartingPointStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// Columns of the table `f`, all NULL where a connection has no row.
macro_rules! facts_columns {
    ($($db:ident)?) => {
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

/// The newest credential, where another application's table allows several.
const START: Sql = Sql {
    postgres: sql_for!(
        postgres "SELECT " connection_columns!() ", " credential_columns!()
        ", l.operation_run_id AS latest_run_id, " facts_columns!() " FROM provider_connections c
          LEFT JOIN LATERAL (SELECT * FROM provider_credentials n
                             WHERE n.provider_connection_id = c.id ORDER BY n.id DESC LIMIT 1) k ON true
          LEFT JOIN verifyd.latest_reports l ON l.connection_id = c.id AND NOT "
        is_before_creation!("l.completed_at") " AND "
        is_of_its_run_and_connection!("c.workspace_id", "c.tenant_id")
        " LEFT JOIN " facts_of_connection!() " WHERE c.id = ANY($1)"
    ),
    sqlite: sql_for!(
        sqlite "SELECT " connection_columns!() ", " credential_columns!()
        ", l.operation_run_id AS latest_run_id, " facts_columns!()
        " FROM json_each($1) w CROSS JOIN provider_connections c ON c.id = w.value
          LEFT JOIN provider_credentials k ON k.provider_connection_id = c.id
          LEFT JOIN " facts_of_connection!()
        " LEFT JOIN verifyd_latest_reports l ON l.connection_id = c.id AND NOT "
        is_before_creation!("l.completed_at") " AND "
        is_of_its_run_and_connection!("c.workspace_id", "c.tenant_id")
    ),
};

/// When the expiry was found stays, while it is the same one.
const KEEP: Sql = both!(
    "INSERT INTO " own!(connection_facts) " AS f
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
             WHEN f.credential_changed_at IS NOT DISTINCT FROM excluded.credential_changed_at
                 AND f.credential_expires_at IS NOT DISTINCT FROM excluded.credential_expires_at
                 AND f.expiry_source IS NOT DISTINCT FROM excluded.expiry_source
             THEN f.expiry_found_at ELSE excluded.expiry_found_at END,
         found_at = excluded.found_at"
);

/// The credential is another one now.
const FORGET_EXPIRY: Sql = both!(
    "UPDATE " own!(connection_facts)
    " SET credential_expires_at = NULL, expiry_source = NULL, expiry_found_at = NULL
      WHERE connection_id = $1 AND expiry_source IS NOT NULL"
);

#[async_trait]
impl<S: SqlStore> StartingPointStore for S {
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError> {
        let found = read(self, async |tx| starting_points(tx, vec![id.0]).await);
        found.await?.pop().transpose()
    }

    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError> {
        execute(self, keep(kept)).await?;
        Ok(())
    }
}

/// Returns the statement that keeps the facts.
pub(super) fn keep(kept: &KeptFacts) -> Statement {
    let expiry = kept.facts.expiry;
    KEEP.bind(kept.connection_id.0)
        .bind(kept.tenant_id.0)
        .bind(&kept.entra_tenant_id)
        .bind(&kept.client_id)
        .bind(&kept.facts.owner_tenant_id)
        .bind(&kept.facts.service_principal_id)
        .bind(&kept.facts.entra_tenant_name)
        .bind(kept.credential_changed_at)
        .bind(expiry.and_then(|expiry| expiry.expires_at))
        .bind(expiry.map(|expiry| expiry.source.as_str()))
}

/// Returns the starting points for these connections, as far as they exist; one that cannot be read is an
/// error of its own.
pub(super) async fn starting_points(
    connection: &mut dyn SqlConnection,
    ids: Vec<i64>,
) -> Result<Vec<Result<StartingPoint, StoreError>>, StoreError> {
    let rows = connection.fetch(START.bind(ids)).await?;
    let rows = rows
        .iter()
        .map(|row| StartRow::from_sql_row(row)?.try_into());
    Ok(rows.collect())
}

/// The stored credential is another one. Lists may show the old date where this fails; checks never do.
pub(super) async fn forget_expiry(store: &impl SqlStore, id: ConnectionId) {
    if let Err(error) = execute(store, FORGET_EXPIRY.bind(id.0)).await {
        tracing::warn!(%error, "cannot remove the old expiry of the credential; the next check replaces it");
    }
}

from_row! {
    /// A connection with its credential, its facts and the run of its latest report.
    #[derive(Debug)]
    struct StartRow {
        latest_run_id: Option<i64>;
        connection: ConnectionWithCredentialRow,
        facts: FactsPart
    }
}

impl TryFrom<StartRow> for StartingPoint {
    type Error = StoreError;
    fn try_from(row: StartRow) -> Result<Self, StoreError> {
        let (connection, credential) = row.connection.try_into()?;
        Ok(Self {
            facts: row.facts.kept(connection.id)?,
            connection,
            credential,
            latest_run: row.latest_run_id.map(RunId),
        })
    }
}

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
        facts_credential_expires_at: Option<DateTime<Utc>>,
        facts_expiry_source: Option<String>,
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
        let source = &self.facts_expiry_source;
        let source = optional_name("connection_facts", "expiry_source", connection.0, source)?;
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
