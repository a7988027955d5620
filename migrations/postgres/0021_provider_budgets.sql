-- The budget of requests of each application that its provider has throttled, which all replicas share: see
-- src/domain/budget.rs.
CREATE TABLE verifyd.provider_budgets (
    cloud        text NOT NULL,
    client_id    text NOT NULL,
    -- Right after the last decrease.
    per_minute   integer NOT NULL,
    decreased_at timestamptz NOT NULL,
    -- Refusals until then belong to the last decrease.
    settled_at   timestamptz NOT NULL,
    -- The permits until then are taken.
    taken_until  timestamptz NOT NULL,
    PRIMARY KEY (cloud, client_id),
    CONSTRAINT provider_budgets_rate CHECK (per_minute > 0)
);
