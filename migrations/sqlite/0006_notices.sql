-- What is told to whom. There are no notifications in SQLite: a run that another process inserts is
-- found by the sweep. For the rest see the migration of PostgreSQL.

-- Whether the latest report's fingerprint differs from the one before it.
ALTER TABLE verifyd_latest_reports ADD COLUMN changed INTEGER NOT NULL DEFAULT 1;

CREATE TABLE verifyd_webhook_endpoints (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id          INTEGER NOT NULL,
    url                   TEXT NOT NULL,
    description           TEXT,
    -- Only completions that changed something.
    changed_only          INTEGER NOT NULL,
    -- Encrypted, bound to workspace, id and url.
    secret                TEXT NOT NULL,
    -- The one before, with which messages are signed as well until then.
    previous_secret       TEXT,
    previous_secret_until TEXT,
    enabled               INTEGER NOT NULL DEFAULT 1,
    disabled_reason       TEXT,
    -- Attempts that failed since the last one that did not.
    failures              INTEGER NOT NULL DEFAULT 0,
    created_at            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CONSTRAINT webhook_endpoints_disabled_reason
        CHECK (disabled_reason IS NULL OR disabled_reason IN ('operator', 'gone'))
) STRICT;
CREATE INDEX verifyd_webhook_endpoints_enabled
    ON verifyd_webhook_endpoints (workspace_id) WHERE enabled;

-- Written by the transaction that completes the run, one row for each endpoint that is to hear of it.
CREATE TABLE verifyd_webhook_deliveries (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint_id      INTEGER NOT NULL,
    message_id       TEXT NOT NULL,
    operation_run_id INTEGER NOT NULL,
    -- What is sent, byte for byte.
    payload          TEXT NOT NULL,
    state            TEXT NOT NULL DEFAULT 'pending',
    -- All attempts, and those since it was last put to the beginning.
    attempts         INTEGER NOT NULL DEFAULT 0,
    tries            INTEGER NOT NULL DEFAULT 0,
    -- While an attempt is being made: when it counts as lost.
    next_attempt_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    created_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    ended_at         TEXT,
    CONSTRAINT webhook_deliveries_state CHECK (state IN ('pending', 'delivered', 'failed')),
    CONSTRAINT webhook_deliveries_ended CHECK ((state = 'pending') = (ended_at IS NULL))
) STRICT;
CREATE INDEX verifyd_webhook_deliveries_due
    ON verifyd_webhook_deliveries (endpoint_id, next_attempt_at) WHERE state = 'pending';
CREATE INDEX verifyd_webhook_deliveries_ended
    ON verifyd_webhook_deliveries (state, ended_at) WHERE state <> 'pending';
CREATE INDEX verifyd_webhook_deliveries_endpoint ON verifyd_webhook_deliveries (endpoint_id, id);

-- One row for each attempt. Without a result it is being made, or its sender ended before it knew.
CREATE TABLE verifyd_webhook_attempts (
    delivery_id INTEGER NOT NULL REFERENCES verifyd_webhook_deliveries (id) ON DELETE CASCADE,
    attempt     INTEGER NOT NULL,
    started_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    duration_ms INTEGER,
    result      TEXT,
    http_status INTEGER,
    PRIMARY KEY (delivery_id, attempt)
) STRICT;
