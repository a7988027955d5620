-- The application's tables. A CHECK passes on NULL, hence IS TRUE.

CREATE TABLE tenants (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id INTEGER NOT NULL,
    name         TEXT,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE operation_runs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id    INTEGER NOT NULL,
    tenant_id       INTEGER,
    type            TEXT NOT NULL,
    status          TEXT NOT NULL DEFAULT 'queued',
    outcome         TEXT,
    context         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(context)),
    failure_summary TEXT DEFAULT '[]' CHECK (failure_summary IS NULL OR json_valid(failure_summary)),
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started_at      TEXT,
    completed_at    TEXT,
    CONSTRAINT operation_runs_check_status CHECK ((
        type <> 'provider.connection.check'
        OR status IN ('queued', 'running', 'completed')
    ) IS TRUE),
    CONSTRAINT operation_runs_check_outcome CHECK ((
        type <> 'provider.connection.check'
        OR CASE WHEN status = 'completed'
                THEN outcome IN ('succeeded', 'failed', 'blocked') AND completed_at IS NOT NULL
                ELSE outcome IS NULL AND completed_at IS NULL
           END
    ) IS TRUE),
    CONSTRAINT operation_runs_check_blocked CHECK ((
        type <> 'provider.connection.check'
        OR outcome IS NOT 'blocked'
        OR (
            json_type(context, '$.reason_code') = 'text'
            AND json_type(context, '$.next_steps') = 'array'
            AND json_type(context, '$.verification_report') = 'object'
            AND json_type(context, '$.verification_report.schema_version') = 'text'
            AND json_type(context, '$.verification_report.generated_at') = 'text'
            AND json_type(context, '$.verification_report.previous_report_id') IS NOT NULL
            AND json_type(context, '$.verification_report.identity') = 'object'
            AND json_type(context, '$.verification_report.summary') = 'object'
            AND json_type(context, '$.verification_report.checks') = 'array'
            AND json_extract(context, '$.verification_report.flow') = type
            AND length(json_extract(context, '$.verification_report.fingerprint')) = 64
            AND json_extract(context, '$.verification_report.fingerprint') NOT GLOB '*[^0-9a-f]*'
        )
    ) IS TRUE)
) STRICT;
CREATE INDEX operation_runs_check_active ON operation_runs (status, id)
    WHERE type = 'provider.connection.check' AND status IN ('queued', 'running');
CREATE INDEX operation_runs_check_connection
    ON operation_runs (CAST(context ->> 'provider_connection_id' AS TEXT), id)
    WHERE type = 'provider.connection.check';
CREATE INDEX operation_runs_check_tenant ON operation_runs (tenant_id, id)
    WHERE type = 'provider.connection.check';

CREATE TABLE provider_connections (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id    INTEGER NOT NULL,
    tenant_id       INTEGER NOT NULL,
    provider        TEXT NOT NULL,
    display_name    TEXT,
    status          TEXT NOT NULL DEFAULT 'enabled',
    entra_tenant_id TEXT,
    client_id       TEXT,
    cloud           TEXT,
    module          TEXT,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CONSTRAINT provider_connections_status CHECK (status IN ('enabled', 'disabled'))
) STRICT;
CREATE INDEX provider_connections_tenant ON provider_connections (tenant_id, id);

CREATE TABLE provider_credentials (
    id                     INTEGER PRIMARY KEY AUTOINCREMENT,
    provider_connection_id INTEGER NOT NULL UNIQUE,
    kind                   TEXT NOT NULL,
    payload                TEXT NOT NULL,
    expires_at             TEXT,
    created_at             TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at             TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CONSTRAINT provider_credentials_kind
        CHECK (kind IN ('client_secret', 'certificate', 'federated_token_file'))
) STRICT;

CREATE TABLE tenant_permissions (
    tenant_id       INTEGER NOT NULL,
    permission_key  TEXT NOT NULL,
    status          TEXT NOT NULL,
    details         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(details)),
    last_checked_at TEXT,
    PRIMARY KEY (tenant_id, permission_key),
    CONSTRAINT tenant_permissions_status CHECK (status IN ('granted', 'missing'))
) STRICT;

CREATE TABLE tenant_onboarding_sessions (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id INTEGER NOT NULL,
    tenant_id    INTEGER,
    state        TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(state)),
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE verification_check_acknowledgements (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    operation_run_id INTEGER NOT NULL,
    check_key        TEXT NOT NULL,
    reason_code      TEXT,
    reason           TEXT NOT NULL,
    acknowledged_by  TEXT NOT NULL,
    acknowledged_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at       TEXT,
    withdrawn_at     TEXT,
    withdrawn_by     TEXT
) STRICT;
CREATE INDEX verification_check_acknowledgements_run
    ON verification_check_acknowledgements (operation_run_id, check_key);

INSERT INTO verifyd_owned_tables (table_name) VALUES
    ('tenants'), ('operation_runs'), ('provider_connections'), ('provider_credentials'),
    ('tenant_permissions'), ('tenant_onboarding_sessions'), ('verification_check_acknowledgements');
