//! Endpoints of webhooks.

use super::{PostgresStore, seconds};
use crate::domain::webhook::{DisabledReason, WebhookBinding};
use crate::domain::{EndpointId, WorkspaceId};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_endpoints::{
    Endpoint, EndpointError, EndpointStore, NewEndpoint, SealSecret, SealedSecrets,
};
use crate::store::rows;
use crate::store::sql::sql;
use crate::store::webhook_rows::{EndpointRow, SecretsRow};
use async_trait::async_trait;
use std::time::Duration;

/// The columns of an `EndpointRow`. A previous secret that is over is none.
macro_rules! endpoint_columns {
    () => {
        "id, workspace_id, url, description, changed_only, enabled, disabled_reason,
         failures::bigint AS failures, created_at,
         CASE WHEN previous_secret_until > now() THEN previous_secret_until END
             AS previous_secret_until, circuit_opened_at, circuit_probe_at,
         coalesce(circuit_probe_at <= now(), false) AS circuit_may_probe,
         (SELECT min(d.pending_since) FROM verifyd.webhook_deliveries d
          WHERE d.endpoint_id = webhook_endpoints.id AND d.state = 'pending')
             AS oldest_pending_since"
    };
}

const ADD: &str = "
    INSERT INTO verifyd.webhook_endpoints (workspace_id, url, description, changed_only, secret)
    VALUES ($1, $2, $3, $4, '') RETURNING id";

const SET_SECRET: &str = sql!(
    "UPDATE verifyd.webhook_endpoints SET secret = $2 WHERE id = $1 RETURNING " endpoint_columns!()
);

const ENDPOINTS: &str = sql!(
    "SELECT " endpoint_columns!()
    " FROM verifyd.webhook_endpoints WHERE $1::bigint IS NULL OR workspace_id = $1 ORDER BY id"
);

const PLACE: &str =
    "SELECT workspace_id, url FROM verifyd.webhook_endpoints WHERE id = $1 FOR NO KEY UPDATE";

const ROTATE: &str = sql!(
    "UPDATE verifyd.webhook_endpoints SET secret = $2,
        previous_secret = CASE WHEN $3 > 0 THEN secret END,
        previous_secret_until = CASE WHEN $3 > 0 THEN now() + make_interval(secs => $3) END
     WHERE id = $1 RETURNING " endpoint_columns!()
);

const SET_ENABLED: &str = "
    UPDATE verifyd.webhook_endpoints
    SET enabled = $2::text IS NULL, disabled_reason = $2, failures = 0, circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL WHERE id = $1";

const PENDING_NOW: &str = "
    UPDATE verifyd.webhook_deliveries SET next_attempt_at = now()
    WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > now()";

const REMOVE: &str = "DELETE FROM verifyd.webhook_endpoints WHERE id = $1";

const REMOVE_DELIVERIES: &str = "
    DELETE FROM verifyd.webhook_deliveries WHERE id IN (
        SELECT id FROM verifyd.webhook_deliveries WHERE endpoint_id = $1 ORDER BY id LIMIT $2)";

/// Deliveries removed in one transaction.
const CHUNK: i64 = 1000;

const SECRETS: &str = "
    SELECT id AS endpoint_id, workspace_id, url, secret, previous_secret
    FROM verifyd.webhook_endpoints ORDER BY id";

const RESEAL: &str = "
    UPDATE verifyd.webhook_endpoints SET secret = $4, previous_secret = $5
    WHERE id = $1 AND secret = $2 AND previous_secret IS NOT DISTINCT FROM $3";

#[async_trait]
impl EndpointStore for PostgresStore {
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
    ) -> Result<Endpoint, EndpointError> {
        self.transaction(async |tx| {
            let id: i64 = self
                .scalar(ADD)
                .bind(new.workspace_id.0)
                .bind(&new.url)
                .bind(&new.description)
                .bind(new.changed_only)
                .fetch_one(&mut *tx)
                .await?;
            let sealed = seal(&WebhookBinding {
                workspace_id: new.workspace_id,
                endpoint_id: EndpointId(id),
                url: new.url.clone(),
            });
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(error) => {
                    return Err(error.into());
                }
            };
            let row: EndpointRow = self
                .rows(SET_SECRET)
                .bind(id)
                .bind(sealed)
                .fetch_one(&mut *tx)
                .await?;
            Ok(row.try_into()?)
        })
        .await
    }

    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError> {
        let found: Vec<EndpointRow> = self
            .fetch_all(self.rows(ENDPOINTS).bind(workspace.map(|w| w.0)))
            .await?;
        rows::all(found)
    }

    async fn rotate_secret(
        &self,
        id: EndpointId,
        seal: SealSecret<'_>,
        keep_previous: Duration,
    ) -> Result<Option<Endpoint>, EndpointError> {
        self.transaction(async |tx| {
            let place: Option<(i64, String)> =
                self.rows(PLACE).bind(id.0).fetch_optional(&mut *tx).await?;
            let Some((workspace, url)) = place else {
                return Ok(None);
            };
            let sealed = seal(&WebhookBinding {
                workspace_id: WorkspaceId(workspace),
                endpoint_id: id,
                url,
            });
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(error) => {
                    return Err(error.into());
                }
            };
            let row: EndpointRow = self
                .rows(ROTATE)
                .bind(id.0)
                .bind(sealed)
                .bind(seconds(keep_previous))
                .fetch_one(&mut *tx)
                .await?;
            Ok(Some(row.try_into()?))
        })
        .await
    }

    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
    ) -> Result<bool, StoreError> {
        self.transaction(async |tx| {
            let done = self
                .sql(SET_ENABLED)
                .bind(id.0)
                .bind(disabled.map(DisabledReason::as_str))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if disabled.is_none() {
                self.sql(PENDING_NOW).bind(id.0).execute(&mut *tx).await?;
            }
            Ok(done > 0)
        })
        .await
    }

    async fn remove_endpoint(&self, id: EndpointId) -> Result<bool, StoreError> {
        self.with_timeout(async {
            let removed = self.execute(self.sql(REMOVE).bind(id.0)).await?;
            loop {
                let chunk = self.sql(REMOVE_DELIVERIES).bind(id.0).bind(CHUNK);
                if self.execute(chunk).await? == 0 {
                    return Ok(removed > 0);
                }
            }
        })
        .await
    }

    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError> {
        let found: Vec<SecretsRow> = self.fetch_all(self.rows(SECRETS)).await?;
        Ok(found.into_iter().map(Into::into).collect())
    }

    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
    ) -> Result<bool, StoreError> {
        let query = self
            .sql(RESEAL)
            .bind(id.0)
            .bind(&old.current)
            .bind(&old.previous)
            .bind(&new.current)
            .bind(&new.previous);
        let done = self.execute(query).await?;
        Ok(done > 0)
    }
}
