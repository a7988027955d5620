-- verifyd's own state: who works on what, which hints were sent, what was found last.
-- None of it lives in the application's tables, and nothing here refers to them by a foreign key:
-- a foreign key would add triggers to a table that may belong to another application.

-- Tables that verifyd made in the application's schema, and may therefore alter later.
CREATE TABLE verifyd.owned_tables (
    table_schema text NOT NULL,
    table_name   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_schema, table_name)
);

-- One row per claim; its end is written by whoever ends it. The row that is not ended is the lease.
CREATE TABLE verifyd.run_attempts (
    run_id      bigint NOT NULL,
    attempt     integer NOT NULL CHECK (attempt > 0),
    token       uuid NOT NULL,
    worker_id   text NOT NULL,
    counted     boolean NOT NULL,
    claimed_at  timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    ended_at    timestamptz,
    end_reason  text,
    PRIMARY KEY (run_id, attempt),
    CONSTRAINT run_attempts_end_reason CHECK (end_reason IS NULL OR end_reason IN
        ('completed', 'throttled', 'shutdown', 'error', 'worker_lost', 'superseded')),
    CONSTRAINT run_attempts_ended_with_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
CREATE UNIQUE INDEX run_attempts_open ON verifyd.run_attempts (run_id) WHERE ended_at IS NULL;

CREATE TABLE verifyd.workers (
    worker_id   text PRIMARY KEY,
    version     text NOT NULL,
    concurrency integer NOT NULL,
    in_flight   integer NOT NULL,
    started_at  timestamptz NOT NULL,
    beat_at     timestamptz NOT NULL
);

-- Whether a hint was sent for a run that is not completed, and before when it may not be claimed.
-- No row: never delivered, due at once. Gone when the run is completed.
CREATE TABLE verifyd.run_deliveries (
    run_id       bigint PRIMARY KEY,
    delivered_at timestamptz,
    not_before   timestamptz
);
CREATE INDEX run_deliveries_delivered_at ON verifyd.run_deliveries (delivered_at);

-- The latest report of each connection, so that the previous one is found without a search.
CREATE TABLE verifyd.latest_reports (
    connection_id    bigint PRIMARY KEY,
    operation_run_id bigint NOT NULL,
    fingerprint      text NOT NULL,
    overall          text NOT NULL,
    outcome          text NOT NULL,
    completed_at     timestamptz NOT NULL
);

-- How fresh a tenant's inventory is: one row per tenant, so that a check that finds nothing new
-- writes one row and not twenty.
CREATE TABLE verifyd.tenant_inventory (
    tenant_id        bigint PRIMARY KEY,
    operation_run_id bigint NOT NULL,
    refreshed_at     timestamptz NOT NULL,
    source           text NOT NULL
);
