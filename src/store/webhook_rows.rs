//! Rows of webhooks as they come from either database.

use super::from_row::from_row;
use super::rows::{count, name, optional_count, optional_name};
use crate::domain::circuit::{Circuit, CircuitState};
use crate::domain::webhook::WebhookBinding;
use crate::domain::{DeliveryId, EndpointId, RunId, WorkspaceId};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_deliveries::{Delivery, DeliveryAttempt, DeliveryCounts, LeasedDelivery};
use crate::ports::webhook_endpoints::{Endpoint, SealedSecrets};
use chrono::{DateTime, Utc};

from_row! {
    /// `webhook_endpoints`, without its secrets
    #[derive(Debug)]
    pub(super) struct EndpointRow {
        id: i64,
        workspace_id: i64,
        url: String,
        description: Option<String>,
        changed_only: bool,
        enabled: bool,
        disabled_reason: Option<String>,
        failures: i64,
        created_at: DateTime<Utc>,
        previous_secret_until: Option<DateTime<Utc>>,
        circuit_opened_at: Option<DateTime<Utc>>,
        circuit_probe_at: Option<DateTime<Utc>>,
        circuit_may_probe: bool,
        oldest_pending_since: Option<DateTime<Utc>>,
    }
}

impl TryFrom<EndpointRow> for Endpoint {
    type Error = StoreError;
    fn try_from(row: EndpointRow) -> Result<Self, StoreError> {
        let (table, id) = ("webhook_endpoints", row.id);
        Ok(Self {
            id: EndpointId(id),
            workspace_id: WorkspaceId(row.workspace_id),
            disabled_reason: optional_name(table, "disabled_reason", id, &row.disabled_reason)?,
            failures: count(table, "failures", id, row.failures)?,
            circuit: match row.circuit_probe_at {
                None => CircuitState::Closed,
                Some(_) if row.circuit_may_probe => CircuitState::HalfOpen,
                Some(_) => CircuitState::Open,
            },
            circuit_opened_at: row.circuit_opened_at,
            circuit_probe_at: row.circuit_probe_at,
            oldest_pending_since: row.oldest_pending_since,
            url: row.url,
            description: row.description,
            changed_only: row.changed_only,
            enabled: row.enabled,
            created_at: row.created_at,
            previous_secret_until: row.previous_secret_until,
        })
    }
}

from_row! {
    /// The circuit of an endpoint
    #[derive(Debug)]
    pub(super) struct CircuitRow {
        id: i64,
        failures: i64,
        circuit_pauses: i64,
    }
}

impl TryFrom<CircuitRow> for Circuit {
    type Error = StoreError;
    fn try_from(row: CircuitRow) -> Result<Self, StoreError> {
        let table = "webhook_endpoints";
        Ok(Self {
            failures: count(table, "failures", row.id, row.failures)?,
            pauses: count(table, "circuit_pauses", row.id, row.circuit_pauses)?,
        })
    }
}

from_row! {
    /// Where an endpoint's secrets belong, and the secrets
    #[derive(Debug)]
    pub(super) struct SecretsRow {
        endpoint_id: i64,
        workspace_id: i64,
        url: String,
        secret: String,
        previous_secret: Option<String>,
    }
}

impl From<SecretsRow> for (WebhookBinding, SealedSecrets) {
    fn from(row: SecretsRow) -> Self {
        let binding = WebhookBinding {
            workspace_id: WorkspaceId(row.workspace_id),
            endpoint_id: EndpointId(row.endpoint_id),
            url: row.url,
        };
        let secrets = SealedSecrets {
            current: row.secret,
            previous: row.previous_secret,
        };
        (binding, secrets)
    }
}

from_row! {
    /// A leased delivery with its endpoint
    #[derive(Debug)]
    pub(super) struct LeasedRow {
        id: i64,
        message_id: String,
        payload: String,
        attempts: i64,
        tries: i64,
        failing: bool,
        is_probe: bool,
        endpoint_id: i64,
        workspace_id: i64,
        url: String,
        secret: String,
        previous_secret: Option<String>,
    }
}

impl TryFrom<LeasedRow> for LeasedDelivery {
    type Error = StoreError;
    fn try_from(row: LeasedRow) -> Result<Self, StoreError> {
        let table = "webhook_deliveries";
        let (endpoint, secrets) = SecretsRow {
            endpoint_id: row.endpoint_id,
            workspace_id: row.workspace_id,
            url: row.url,
            secret: row.secret,
            previous_secret: row.previous_secret,
        }
        .into();
        Ok(Self {
            id: DeliveryId(row.id),
            message_id: row.message_id,
            payload: row.payload,
            attempt: count(table, "attempts", row.id, row.attempts)?,
            tries: count(table, "tries", row.id, row.tries)?,
            endpoint,
            secrets,
            failing: row.failing,
            is_probe: row.is_probe,
        })
    }
}

from_row! {
    /// `webhook_deliveries` with the last attempt's result
    #[derive(Debug)]
    pub(super) struct DeliveryRow {
        id: i64,
        endpoint_id: i64,
        message_id: String,
        operation_run_id: i64,
        state: String,
        attempts: i64,
        next_attempt_at: DateTime<Utc>,
        created_at: DateTime<Utc>,
        ended_at: Option<DateTime<Utc>>,
        give_up_reason: Option<String>,
        result: Option<String>,
        http_status: Option<i64>,
        cause: Option<String>,
    }
}

impl TryFrom<DeliveryRow> for Delivery {
    type Error = StoreError;
    fn try_from(row: DeliveryRow) -> Result<Self, StoreError> {
        let (table, attempts, id) = ("webhook_deliveries", "webhook_attempts", row.id);
        Ok(Self {
            id: DeliveryId(id),
            endpoint_id: EndpointId(row.endpoint_id),
            message_id: row.message_id,
            operation_run_id: RunId(row.operation_run_id),
            state: name(table, "state", id, &row.state)?,
            attempts: count(table, "attempts", id, row.attempts)?,
            next_attempt_at: row.ended_at.is_none().then_some(row.next_attempt_at),
            created_at: row.created_at,
            ended_at: row.ended_at,
            give_up_reason: optional_name(table, "give_up_reason", id, &row.give_up_reason)?,
            last_result: optional_name(attempts, "result", id, &row.result)?,
            last_http_status: optional_count(attempts, "http_status", id, row.http_status)?,
            last_cause: row.cause,
        })
    }
}

from_row! {
    /// `webhook_attempts`
    #[derive(Debug)]
    pub(super) struct DeliveryAttemptRow {
        delivery_id: i64,
        attempt: i64,
        started_at: DateTime<Utc>,
        duration_ms: Option<i64>,
        result: Option<String>,
        http_status: Option<i64>,
        cause: Option<String>,
    }
}

impl TryFrom<DeliveryAttemptRow> for DeliveryAttempt {
    type Error = StoreError;
    fn try_from(row: DeliveryAttemptRow) -> Result<Self, StoreError> {
        let table = "webhook_attempts";
        let key = format!("({}, {})", row.delivery_id, row.attempt);
        Ok(Self {
            attempt: count(table, "attempt", &key, row.attempt)?,
            started_at: row.started_at,
            duration_ms: optional_count(table, "duration_ms", &key, row.duration_ms)?,
            result: optional_name(table, "result", &key, &row.result)?,
            http_status: optional_count(table, "http_status", &key, row.http_status)?,
            cause: row.cause,
        })
    }
}

from_row! {
    /// Counts over `webhook_deliveries`
    #[derive(Debug)]
    pub(super) struct DeliveryCountsRow {
        pending: i64,
        failed: i64,
        failed_by_age: i64,
        oldest_pending_seconds: Option<f64>,
        open_circuits: i64,
    }
}

impl From<DeliveryCountsRow> for DeliveryCounts {
    fn from(row: DeliveryCountsRow) -> Self {
        Self {
            pending: row.pending.unsigned_abs(),
            failed: row.failed.unsigned_abs(),
            failed_by_age: row.failed_by_age.unsigned_abs(),
            oldest_pending_seconds: row.oldest_pending_seconds.map(|seconds| seconds.max(0.0)),
            open_circuits: row.open_circuits.unsigned_abs(),
        }
    }
}
