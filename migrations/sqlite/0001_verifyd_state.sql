-- verifyd's own state: who works on what, which hints were sent, what was found last.
-- The same tables as in migrations/postgres, with a prefix in place of the schema.
-- Times are RFC 3339 in UTC with milliseconds, so that they compare as texts.

CREATE TABLE verifyd_owned_tables (
    table_name TEXT NOT NULL PRIMARY KEY,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- One row per claim; its end is written by whoever ends it. The row that is not ended is the lease.
CREATE TABLE verifyd_run_attempts (
    run_id      INTEGER NOT NULL,
    attempt     INTEGER NOT NULL CHECK (attempt > 0),
    token       TEXT NOT NULL,
    worker_id   TEXT NOT NULL,
    counted     INTEGER NOT NULL CHECK (counted IN (0, 1)),
    claimed_at  TEXT NOT NULL,
    deadline_at TEXT NOT NULL,
    ended_at    TEXT,
    end_reason  TEXT,
    PRIMARY KEY (run_id, attempt),
    CONSTRAINT run_attempts_end_reason CHECK (end_reason IS NULL OR end_reason IN
        ('completed', 'throttled', 'shutdown', 'error', 'worker_lost', 'superseded')),
    CONSTRAINT run_attempts_ended_with_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) STRICT;
CREATE UNIQUE INDEX verifyd_run_attempts_open ON verifyd_run_attempts (run_id) WHERE ended_at IS NULL;

CREATE TABLE verifyd_workers (
    worker_id   TEXT NOT NULL PRIMARY KEY,
    version     TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    in_flight   INTEGER NOT NULL,
    started_at  TEXT NOT NULL,
    beat_at     TEXT NOT NULL
) STRICT;

-- Whether a hint was sent for a run that is not completed, and before when it may not be claimed.
-- No row: never delivered, due at once. Gone when the run is completed.
CREATE TABLE verifyd_run_deliveries (
    run_id       INTEGER NOT NULL PRIMARY KEY,
    delivered_at TEXT,
    not_before   TEXT
) STRICT;
CREATE INDEX verifyd_run_deliveries_delivered_at ON verifyd_run_deliveries (delivered_at);

-- The latest report of each connection, so that the previous one is found without a search.
CREATE TABLE verifyd_latest_reports (
    connection_id    INTEGER NOT NULL PRIMARY KEY,
    operation_run_id INTEGER NOT NULL,
    fingerprint      TEXT NOT NULL,
    overall          TEXT NOT NULL,
    outcome          TEXT NOT NULL,
    completed_at     TEXT NOT NULL
) STRICT;

-- How fresh a tenant's inventory is: one row per tenant, so that a check that finds nothing new
-- writes one row and not twenty.
CREATE TABLE verifyd_tenant_inventory (
    tenant_id        INTEGER NOT NULL PRIMARY KEY,
    operation_run_id INTEGER NOT NULL,
    refreshed_at     TEXT NOT NULL,
    source           TEXT NOT NULL
) STRICT;
