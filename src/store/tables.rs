//! The tables and columns that verifyd uses, for `inspect`: one list for both kinds of database.

/// The families of types that a column may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `bigint`
    Id,
    /// `integer`
    Number,
    Boolean,
    /// `text`, `varchar`, `char`
    Text,
    /// With or without time zone; without one it is taken as UTC.
    Time,
    /// `jsonb`
    Json,
    /// `jsonb` or `json`
    AnyJson,
    Uuid,
}

/// A table, its columns, and the set of columns that must be unique.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Family)],
    pub unique: &'static [&'static str],
}

use Family::{AnyJson, Boolean, Id, Json, Number, Text, Time, Uuid};

/// Tables that may belong to another application, by name.
pub(super) const APPLICATION_TABLES: &[&str] = &[
    "operation_runs",
    "provider_connections",
    "provider_credentials",
    "tenant_onboarding_sessions",
    "tenant_permissions",
    "tenants",
    "verification_check_acknowledgements",
];

/// What verifyd uses of the application's tables.
pub(super) const APPLICATION: &[Table] = &[
    Table {
        name: "operation_runs",
        columns: &[
            ("id", Id),
            ("workspace_id", Id),
            ("tenant_id", Id),
            ("type", Text),
            ("status", Text),
            ("outcome", Text),
            ("context", Json),
            ("failure_summary", Json),
            ("created_at", Time),
            ("started_at", Time),
            ("completed_at", Time),
        ],
        unique: &["id"],
    },
    Table {
        name: "provider_connections",
        columns: &[
            ("id", Id),
            ("workspace_id", Id),
            ("tenant_id", Id),
            ("provider", Text),
            ("display_name", Text),
            ("status", Text),
            ("entra_tenant_id", Text),
            ("client_id", Text),
            ("cloud", Text),
            ("module", Text),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        unique: &["id"],
    },
    Table {
        name: "provider_credentials",
        columns: &[
            ("id", Id),
            ("provider_connection_id", Id),
            ("kind", Text),
            ("payload", Text),
            ("expires_at", Time),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        unique: &[],
    },
    Table {
        name: "tenant_permissions",
        columns: &[
            ("tenant_id", Id),
            ("permission_key", Text),
            ("status", Text),
            ("details", Json),
            ("last_checked_at", Time),
        ],
        unique: &["tenant_id", "permission_key"],
    },
    Table {
        name: "tenants",
        columns: &[("id", Id)],
        unique: &[],
    },
    Table {
        name: "tenant_onboarding_sessions",
        columns: &[
            ("id", Id),
            ("workspace_id", Id),
            ("tenant_id", Id),
            ("state", AnyJson),
        ],
        unique: &[],
    },
    Table {
        name: "verification_check_acknowledgements",
        columns: &[
            ("id", Id),
            ("operation_run_id", Id),
            ("check_key", Text),
            ("reason_code", Text),
            ("reason", Text),
            ("acknowledged_by", Text),
            ("acknowledged_at", Time),
            ("expires_at", Time),
            ("withdrawn_at", Time),
            ("withdrawn_by", Text),
        ],
        unique: &[],
    },
];

/// verifyd's own tables, without schema or prefix.
pub(super) const OWN: &[Table] = &[
    Table {
        name: "run_attempts",
        columns: &[
            ("run_id", Id),
            ("attempt", Number),
            ("token", Uuid),
            ("worker_id", Text),
            ("counted", Boolean),
            ("claimed_at", Time),
            ("deadline_at", Time),
            ("ended_at", Time),
            ("end_reason", Text),
            ("earlier", Boolean),
        ],
        unique: &["run_id", "attempt"],
    },
    Table {
        name: "workers",
        columns: &[
            ("worker_id", Text),
            ("version", Text),
            ("concurrency", Number),
            ("in_flight", Number),
            ("started_at", Time),
            ("beat_at", Time),
        ],
        unique: &["worker_id"],
    },
    Table {
        name: "run_deliveries",
        columns: &[("run_id", Id), ("delivered_at", Time), ("not_before", Time)],
        unique: &["run_id"],
    },
    Table {
        name: "latest_reports",
        columns: &[
            ("connection_id", Id),
            ("operation_run_id", Id),
            ("fingerprint", Text),
            ("overall", Text),
            ("outcome", Text),
            ("completed_at", Time),
            ("acknowledged", Boolean),
            ("changed", Boolean),
        ],
        unique: &["connection_id"],
    },
    Table {
        name: "connection_facts",
        columns: &[
            ("connection_id", Id),
            ("tenant_id", Id),
            ("entra_tenant_id", Text),
            ("client_id", Text),
            ("owner_tenant_id", Text),
            ("service_principal_id", Text),
            ("entra_tenant_name", Text),
            ("credential_changed_at", Time),
            ("credential_expires_at", Time),
            ("expiry_source", Text),
            ("expiry_found_at", Time),
            ("found_at", Time),
        ],
        unique: &["connection_id"],
    },
    Table {
        name: "tenant_inventory",
        columns: &[
            ("tenant_id", Id),
            ("operation_run_id", Id),
            ("refreshed_at", Time),
            ("source", Text),
            ("digest", Text),
            ("compared_at", Time),
        ],
        unique: &["tenant_id"],
    },
    Table {
        name: "api_tokens",
        columns: &[
            ("id", Id),
            ("name", Text),
            ("token_hash", Text),
            ("scopes", Text),
            ("workspace_id", Id),
            ("tenant_id", Id),
            ("created_at", Time),
            ("expires_at", Time),
            ("revoked_at", Time),
            ("last_used_at", Time),
        ],
        unique: &["token_hash"],
    },
    Table {
        name: "page_sessions",
        columns: &[
            ("session_hash", Text),
            ("token_id", Id),
            ("csrf", Text),
            ("created_at", Time),
            ("expires_at", Time),
        ],
        unique: &["session_hash"],
    },
    Table {
        name: "idempotency_keys",
        columns: &[
            ("token_id", Id),
            ("idempotency_key", Text),
            ("request_hash", Text),
            ("reserved_at", Time),
            ("response_status", Number),
            ("response_body", Text),
        ],
        unique: &["token_id", "idempotency_key"],
    },
    Table {
        name: "carried_acknowledgements",
        columns: &[
            ("acknowledgement_id", Id),
            ("connection_id", Id),
            ("check_key", Text),
            ("status", Text),
            ("reason_code", Text),
            ("from_run_id", Id),
            ("from_completed_at", Time),
            ("lapsed_run_id", Id),
            ("lapsed_at", Time),
        ],
        unique: &["acknowledgement_id"],
    },
    Table {
        name: "acknowledgement_actors",
        columns: &[
            ("acknowledgement_id", Id),
            ("operation_run_id", Id),
            ("action", Text),
            ("at", Time),
            ("surface", Text),
            ("token_id", Id),
            ("name", Text),
        ],
        unique: &["acknowledgement_id", "action", "at"],
    },
    Table {
        name: "webhook_endpoints",
        columns: &[
            ("id", Id),
            ("workspace_id", Id),
            ("url", Text),
            ("description", Text),
            ("changed_only", Boolean),
            ("secret", Text),
            ("previous_secret", Text),
            ("previous_secret_until", Time),
            ("enabled", Boolean),
            ("disabled_reason", Text),
            ("failures", Number),
            ("created_at", Time),
            ("circuit_pauses", Number),
            ("circuit_opened_at", Time),
            ("circuit_probe_at", Time),
        ],
        unique: &["id"],
    },
    Table {
        name: "webhook_deliveries",
        columns: &[
            ("id", Id),
            ("endpoint_id", Id),
            ("message_id", Text),
            ("operation_run_id", Id),
            ("payload", Text),
            ("state", Text),
            ("attempts", Number),
            ("tries", Number),
            ("next_attempt_at", Time),
            ("created_at", Time),
            ("ended_at", Time),
            ("pending_since", Time),
            ("give_up_reason", Text),
        ],
        unique: &["id"],
    },
    Table {
        name: "webhook_attempts",
        columns: &[
            ("delivery_id", Id),
            ("attempt", Number),
            ("started_at", Time),
            ("duration_ms", Number),
            ("result", Text),
            ("http_status", Number),
        ],
        unique: &["delivery_id", "attempt"],
    },
    Table {
        name: "owned_tables",
        columns: &[("table_name", Text), ("created_at", Time)],
        unique: &[],
    },
];
