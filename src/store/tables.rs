//! The tables and columns that verifyd uses, for `inspect`: one list for both kinds of database.

use crate::domain::Reason;
use crate::domain::run::RUN_TYPE;

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

/// Lists tables with their columns by family, in the order of the columns.
macro_rules! tables {
    ($($name:ident unique($($unique:ident)*) { $($family:ident: $($column:ident)+;)+ })+) => {
        &[$(Table {
            name: stringify!($name),
            columns: &[$($((stringify!($column), Family::$family)),+),+],
            unique: &[$(stringify!($unique)),*],
        }),+]
    };
}

/// Tables that may belong to another application, by name.
pub const APPLICATION_TABLES: &[&str] = &[
    "operation_runs",
    "provider_connections",
    "provider_credentials",
    "tenant_onboarding_sessions",
    "tenant_permissions",
    "tenants",
    "verification_check_acknowledgements",
];

/// The application's tables and columns that verifyd uses.
pub(super) const APPLICATION: &[Table] = tables! {
    operation_runs unique(id) {
        Id: id workspace_id tenant_id; Text: type status outcome; Json: context failure_summary;
        Time: created_at started_at completed_at;
    }
    provider_connections unique(id) {
        Id: id workspace_id tenant_id;
        Text: provider display_name status entra_tenant_id client_id cloud module;
        Time: created_at updated_at;
    }
    provider_credentials unique() {
        Id: id provider_connection_id; Text: kind payload; Time: expires_at created_at updated_at;
    }
    tenant_permissions unique(tenant_id permission_key) {
        Id: tenant_id; Text: permission_key status; Json: details; Time: last_checked_at;
    }
    tenants unique() {
        Id: id;
    }
    tenant_onboarding_sessions unique() {
        Id: id workspace_id tenant_id; AnyJson: state;
    }
    verification_check_acknowledgements unique() {
        Id: id operation_run_id; Text: check_key reason_code reason acknowledged_by;
        Time: acknowledged_at expires_at withdrawn_at; Text: withdrawn_by;
    }
};

/// The characters that a column of text has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// With less, `serve` cannot work.
    pub needed: usize,
    /// With less, the longest values are refused.
    pub longest: usize,
}

/// What verifyd writes to a column of text of the application, where that has a known length, else nothing.
pub(super) fn room(table: &str, column: &str) -> Room {
    let (needed, longest) = match (table, column) {
        ("operation_runs", "type") => (RUN_TYPE.len(), 0),
        // "completed", "succeeded"
        ("operation_runs", "status" | "outcome") => (9, 0),
        // "granted", "missing"
        ("tenant_permissions", "status") => (7, 0),
        // The longest role of a built-in module; the id of an application, a slash and the name of a role.
        ("tenant_permissions", "permission_key") => (BUILT_IN_ROLE, 36 + 1 + 120),
        // As long as modules may make it.
        ("verification_check_acknowledgements", "check_key") => (0, 120),
        ("verification_check_acknowledgements", "reason_code") => {
            let codes = Reason::ALL.iter().map(|reason| reason.code().len());
            (0, codes.max().unwrap_or_default())
        }
        _ => (0, 0),
    };
    Room { needed, longest }
}

/// `DeviceManagementManagedDevices.Read.All`
const BUILT_IN_ROLE: usize = 39;

/// verifyd's own tables, without schema or prefix.
pub(super) const OWN: &[Table] = tables! {
    run_attempts unique(run_id attempt) {
        Id: run_id; Number: attempt; Uuid: token; Text: worker_id; Boolean: counted;
        Time: claimed_at deadline_at ended_at; Text: end_reason result_refusal requeue_refusal; Boolean: earlier;
    }
    workers unique(worker_id) {
        Text: worker_id version; Number: concurrency in_flight; Time: started_at beat_at;
    }
    run_deliveries unique(run_id) {
        Id: run_id; Time: delivered_at not_before;
    }
    latest_reports unique(connection_id) {
        Id: connection_id operation_run_id; Text: fingerprint overall outcome; Time: completed_at;
        Boolean: acknowledged changed;
    }
    connection_facts unique(connection_id) {
        Id: connection_id tenant_id;
        Text: entra_tenant_id client_id owner_tenant_id service_principal_id entra_tenant_name;
        Time: credential_changed_at credential_expires_at; Text: expiry_source;
        Time: expiry_found_at found_at;
    }
    tenant_inventory unique(tenant_id) {
        Id: tenant_id operation_run_id; Time: refreshed_at; Text: source digest; Time: compared_at;
    }
    api_tokens unique(token_hash) {
        Id: id; Text: name token_hash scopes; Id: workspace_id tenant_id;
        Time: created_at expires_at revoked_at last_used_at;
    }
    page_sessions unique(session_hash) {
        Text: session_hash; Id: token_id; Text: csrf; Time: created_at expires_at;
    }
    idempotency_keys unique(token_id idempotency_key) {
        Id: token_id; Text: idempotency_key request_hash; Time: reserved_at; Number: response_status;
        Text: response_body subject; Id: subject_id; Time: subject_at;
    }
    carried_acknowledgements unique(acknowledgement_id) {
        Id: acknowledgement_id connection_id; Text: check_key status reason_code; Id: from_run_id;
        Time: from_completed_at; Id: lapsed_run_id; Time: lapsed_at;
    }
    acknowledgement_actors unique(acknowledgement_id action at) {
        Id: acknowledgement_id operation_run_id; Text: action; Time: at; Text: surface; Id: token_id;
        Text: name;
    }
    webhook_endpoints unique(id) {
        Id: id workspace_id; Text: url description; Boolean: changed_only; Text: secret previous_secret;
        Time: previous_secret_until; Boolean: enabled; Text: disabled_reason; Number: failures;
        Time: created_at; Number: circuit_pauses; Time: circuit_opened_at circuit_probe_at;
    }
    webhook_deliveries unique(id) {
        Id: id endpoint_id; Text: message_id; Id: operation_run_id; Text: payload state;
        Number: attempts tries; Time: next_attempt_at created_at ended_at pending_since;
        Text: give_up_reason;
    }
    webhook_attempts unique(delivery_id attempt) {
        Id: delivery_id; Number: attempt; Time: started_at; Number: duration_ms; Text: result;
        Number: http_status; Text: cause;
    }
    audit_entries unique(id) {
        Id: id; Time: at; Text: action object; Id: object_id workspace_id tenant_id; Text: surface;
        Id: token_id; Text: actor address request_id; Json: before after;
    }
    provider_budgets unique(cloud client_id) {
        Text: cloud client_id; Number: per_minute; Time: decreased_at settled_at taken_until;
    }
    owned_tables unique() {
        Text: table_name; Time: created_at;
    }
};

/// The tables that verifyd inserts rows into without their ids, and what is not possible while that is refused.
pub(super) const NUMBERED: [(&str, &str); 9] = [
    (
        "operation_runs",
        "no check can be started by command line, API or page",
    ),
    ("provider_connections", "no connection can be added"),
    ("provider_credentials", "no credential can be added"),
    (
        "tenant_permissions",
        "no check that reads permissions can be completed",
    ),
    (
        "verification_check_acknowledgements",
        "nothing can be acknowledged by command line, API or page",
    ),
    (
        "verifyd.api_tokens",
        "no token can be created, and nobody can sign in with OpenID Connect for the first time",
    ),
    ("verifyd.webhook_endpoints", "no endpoint can be added"),
    (
        "verifyd.webhook_deliveries",
        "no run can be completed that an endpoint is to be told of",
    ),
    (
        "verifyd.audit_entries",
        "nothing can be done that the audit trail records",
    ),
];

/// Those with rows that are locked, in PostgreSQL alone.
pub(super) const OWN_LOCKS: &[Table] = tables! {
    sweep_lock unique(id) {
        Number: id;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_role_of_the_built_in_modules_is_known() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/provider/microsoft/modules"
        );
        let files = std::fs::read_dir(folder).unwrap();
        let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let longest = texts.flat_map(|text| {
            let roles = text.lines().filter_map(|line| {
                let role = line.strip_prefix("role = \"")?;
                Some(role.strip_suffix('"')?.len())
            });
            roles.max()
        });
        assert_eq!(longest.max(), Some(BUILT_IN_ROLE));
    }
}
