//! Endpoints of webhooks.

use super::audit::record;
use super::dialect::{after, each, now, own, postgres_only};
use super::rows;
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, execute, fetch_all, transaction, within};
use super::statement::{Sql, later};
use super::webhook_rows::{EndpointRow, SecretsRow};
use crate::domain::access::Binding;
use crate::domain::audit::{AuditAction, Change, Origin};
use crate::domain::webhook::{DisabledReason, WebhookBinding, origin_of};
use crate::domain::{EndpointId, WorkspaceId};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_endpoints::{
    Endpoint, EndpointError, EndpointStore, NewEndpoint, RotateSecret, SealSecret, SealedSecrets,
};
use async_trait::async_trait;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// The columns of an `EndpointRow`. A previous secret that is over is none.
macro_rules! endpoint_columns {
    ($db:ident) => {
        sql_for!(
            $db "id, workspace_id, url, description, changed_only, enabled, disabled_reason,
                 CAST(failures AS bigint) AS failures, created_at,
                 CASE WHEN previous_secret_until > " now!() " THEN previous_secret_until END
                     AS previous_secret_until, circuit_opened_at, circuit_probe_at,
                 coalesce(circuit_probe_at <= " now!() ", false) AS circuit_may_probe,
                 (SELECT min(d.pending_since) FROM " own!(webhook_deliveries) " d
                  WHERE d.endpoint_id = " each!("webhook_endpoints", "verifyd_webhook_endpoints")
            ".id AND d.state = 'pending') AS oldest_pending_since"
        )
    };
}

const ADD: Sql = both!(
    "INSERT INTO " own!(webhook_endpoints) " (workspace_id, url, description, changed_only, secret)
     VALUES ($1, $2, $3, $4, '') RETURNING id"
);

const SET_SECRET: Sql = both!(
    "UPDATE " own!(webhook_endpoints) " SET secret = $2 WHERE id = $1 RETURNING " endpoint_columns!()
);

const ENDPOINTS: Sql = both!(
    "SELECT " endpoint_columns!() " FROM " own!(webhook_endpoints)
    " WHERE $1 IS NULL OR workspace_id = $1 ORDER BY id"
);

const PLACE: Sql = both!(
    "SELECT workspace_id, url, secret FROM " own!(webhook_endpoints) " WHERE id = $1"
    postgres_only!(" FOR NO KEY UPDATE")
);

/// `$3`: the previous secret; NULL: not used. `$4`: end of its use, relative to now.
const ROTATE: Sql = both!(
    "UPDATE " own!(webhook_endpoints) " SET secret = $2, previous_secret = $3,
        previous_secret_until = CASE WHEN $3 IS NOT NULL THEN " after!("$4")
    " END WHERE id = $1 RETURNING " endpoint_columns!()
);

/// Its workspace, and whether it is enabled.
const LOCK_STATE: Sql = both!(
    "SELECT workspace_id, enabled, disabled_reason FROM " own!(webhook_endpoints) " WHERE id = $1"
    postgres_only!(" FOR NO KEY UPDATE")
);

const SET_ENABLED: Sql = both!(
    "UPDATE " own!(webhook_endpoints)
    " SET enabled = ($2 IS NULL), disabled_reason = $2, failures = 0, circuit_pauses = 0,
        circuit_opened_at = NULL, circuit_probe_at = NULL WHERE id = $1"
);

const PENDING_NOW: Sql = both!(
    "UPDATE " own!(webhook_deliveries) " SET next_attempt_at = " now!()
    " WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > " now!()
);

const REMOVE: Sql = both!(
    "DELETE FROM " own!(webhook_endpoints)
    " WHERE id = $1 RETURNING workspace_id, url, description, changed_only"
);

const REMOVE_DELIVERIES: Sql = both!(
    "DELETE FROM " own!(webhook_deliveries) " WHERE id IN (
        SELECT id FROM " own!(webhook_deliveries) " WHERE endpoint_id = $1 ORDER BY id LIMIT $2)"
);

/// Deliveries removed in one transaction.
const CHUNK: i64 = 1000;

/// The previous secret, until it is over.
macro_rules! previous_secret {
    ($db:ident) => {
        sql_for!($db "CASE WHEN previous_secret_until > " now!() " THEN previous_secret END")
    };
}

const SECRETS: Sql = both!(
    "SELECT id AS endpoint_id, workspace_id, url, secret, " previous_secret!() " AS previous_secret
     FROM " own!(webhook_endpoints) " ORDER BY id"
);

/// A previous secret may end between reading and writing.
const RESEAL: Sql = both!(
    "UPDATE " own!(webhook_endpoints) " SET secret = $4, previous_secret = $5,
        previous_secret_until = CASE WHEN $5 IS NOT NULL THEN previous_secret_until END
     WHERE id = $1 AND secret = $2
         AND (" previous_secret!() " IS NOT DISTINCT FROM $3 OR previous_secret_until <= " now!() ")
     RETURNING workspace_id"
);

/// An action with an endpoint of this workspace.
fn change(action: AuditAction, id: EndpointId, workspace: WorkspaceId) -> Change {
    let owner = Binding {
        workspace_id: Some(workspace),
        tenant_id: None,
    };
    Change::new(action, id.0, owner)
}

/// What an entry keeps of an endpoint.
fn facts(url: &str, description: Option<&str>, changed_only: bool) -> Json {
    json!({ "origin": origin_of(url), "description": description, "changed_only": changed_only })
}

/// What an entry keeps of whether an endpoint is enabled.
fn state(enabled: bool, disabled_reason: Option<&str>) -> Json {
    json!({ "enabled": enabled, "disabled_reason": disabled_reason })
}

#[async_trait]
impl<S: SqlStore> EndpointStore for S {
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
        by: &Origin,
    ) -> Result<Endpoint, EndpointError> {
        transaction(self, async |tx| {
            let add = ADD
                .bind(new.workspace_id.0)
                .bind(&new.url)
                .bind(&new.description)
                .bind(new.changed_only);
            let (id,): (i64,) = add.fetch_one(tx).await?;
            let sealed = seal(&WebhookBinding {
                workspace_id: new.workspace_id,
                endpoint_id: EndpointId(id),
                url: new.url.clone(),
            })?;
            let row: EndpointRow = SET_SECRET.bind(id).bind(sealed).fetch_one(tx).await?;
            let facts = facts(&new.url, new.description.as_deref(), new.changed_only);
            let action = AuditAction::EndpointAdded;
            let change = change(action, EndpointId(id), new.workspace_id).after(facts);
            record(tx, &change, by).await?;
            Ok(row.try_into()?)
        })
        .await
    }

    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError> {
        let endpoints = ENDPOINTS.bind(workspace.map(|w| w.0));
        rows::all(fetch_all::<EndpointRow>(self, endpoints).await?)
    }

    async fn rotate_secret(
        &self,
        id: EndpointId,
        rotate: RotateSecret<'_>,
        keep_previous: Duration,
        by: &Origin,
    ) -> Result<Option<Endpoint>, EndpointError> {
        transaction(self, async |tx| {
            let place: Option<(i64, String, String)> = PLACE.bind(id.0).fetch_optional(tx).await?;
            let Some((workspace, url, secret)) = place else {
                return Ok(None);
            };
            let binding = WebhookBinding {
                workspace_id: WorkspaceId(workspace),
                endpoint_id: id,
                url,
            };
            let SealedSecrets { current, previous } = rotate(&binding, secret)?;
            let previous = previous.filter(|_| !keep_previous.is_zero());
            let seconds = previous.as_ref().map_or(0, |_| keep_previous.as_secs());
            let rotate = ROTATE.bind(id.0).bind(current).bind(previous);
            let rotate = rotate.bind(later(keep_previous));
            let row: EndpointRow = rotate.fetch_one(tx).await?;
            let action = AuditAction::EndpointSecretRotated;
            let change = change(action, id, WorkspaceId(workspace))
                .after(json!({ "keep_previous_seconds": seconds }));
            record(tx, &change, by).await?;
            Ok(Some(row.try_into()?))
        })
        .await
    }

    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
        by: &Origin,
    ) -> Result<bool, StoreError> {
        transaction(self, async |tx| {
            let found: Option<(i64, bool, Option<String>)> =
                LOCK_STATE.bind(id.0).fetch_optional(tx).await?;
            let Some((workspace, was_enabled, was_disabled_for)) = found else {
                return Ok(false);
            };
            let disabled_reason = disabled.map(DisabledReason::as_str);
            let set = SET_ENABLED.bind(id.0).bind(disabled_reason);
            set.execute(tx).await?;
            if disabled.is_none() {
                PENDING_NOW.bind(id.0).execute(tx).await?;
            }
            let before = state(was_enabled, was_disabled_for.as_deref());
            let after = state(disabled.is_none(), disabled_reason);
            if before == after {
                return Ok(true);
            }
            let action = match disabled {
                Some(_) => AuditAction::EndpointDisabled,
                None => AuditAction::EndpointEnabled,
            };
            let change = change(action, id, WorkspaceId(workspace))
                .before(before)
                .after(after);
            record(tx, &change, by).await?;
            Ok(true)
        })
        .await
    }

    async fn remove_endpoint(&self, id: EndpointId, by: &Origin) -> Result<bool, StoreError> {
        let removal = async {
            let removed = transaction(self, async |tx| {
                let removed: Option<(i64, String, Option<String>, bool)> =
                    REMOVE.bind(id.0).fetch_optional(tx).await?;
                let Some((workspace, url, description, changed_only)) = removed else {
                    return Ok(false);
                };
                let facts = facts(&url, description.as_deref(), changed_only);
                let action = AuditAction::EndpointRemoved;
                let change = change(action, id, WorkspaceId(workspace)).before(facts);
                record(tx, &change, by).await?;
                Ok::<bool, StoreError>(true)
            })
            .await?;
            while execute(self, REMOVE_DELIVERIES.bind(id.0).bind(CHUNK)).await? > 0 {}
            Ok(removed)
        };
        within(self.in_process().call_timeout, removal).await
    }

    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError> {
        let found: Vec<SecretsRow> = fetch_all(self, SECRETS).await?;
        Ok(found.into_iter().map(Into::into).collect())
    }

    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
        by: &Origin,
    ) -> Result<bool, StoreError> {
        let reseal = RESEAL
            .bind(id.0)
            .bind(&old.current)
            .bind(&old.previous)
            .bind(&new.current)
            .bind(&new.previous);
        transaction(self, async |tx| {
            let resealed: Option<(i64,)> = reseal.fetch_optional(tx).await?;
            let Some((workspace,)) = resealed else {
                return Ok(false);
            };
            let action = AuditAction::EndpointResealed;
            record(tx, &change(action, id, WorkspaceId(workspace)), by).await?;
            Ok(true)
        })
        .await
    }
}
