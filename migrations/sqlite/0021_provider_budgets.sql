-- The budget of requests of each application that its provider has throttled: see migrations/postgres.
CREATE TABLE verifyd_provider_budgets (
    cloud        TEXT NOT NULL,
    client_id    TEXT NOT NULL,
    -- Right after the last decrease.
    per_minute   INTEGER NOT NULL CHECK (per_minute > 0),
    decreased_at TEXT NOT NULL,
    -- Refusals until then belong to the last decrease.
    settled_at   TEXT NOT NULL,
    -- The permits until then are taken.
    taken_until  TEXT NOT NULL,
    PRIMARY KEY (cloud, client_id)
) STRICT;
