-- The circuit of an endpoint: after failures in a row nothing is tried, but one delivery after a pause.
ALTER TABLE verifyd.webhook_endpoints
    -- Pauses since it was closed; 0: it is closed.
    ADD COLUMN circuit_pauses    integer NOT NULL DEFAULT 0,
    ADD COLUMN circuit_opened_at timestamptz,
    -- When the next probe may go; while one is under way, when that counts as lost.
    ADD COLUMN circuit_probe_at  timestamptz,
    ADD CONSTRAINT webhook_endpoints_circuit
        CHECK ((circuit_probe_at IS NULL) = (circuit_pauses = 0)
               AND (circuit_opened_at IS NULL) = (circuit_pauses = 0));

ALTER TABLE verifyd.webhook_deliveries
    -- Since it was recorded, or put to the beginning. What is pending now has its time before it.
    ADD COLUMN pending_since  timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN give_up_reason text,
    ADD CONSTRAINT webhook_deliveries_give_up_reason
        CHECK (give_up_reason IS NULL
               OR give_up_reason IN ('attempts', 'age', 'gone') AND state = 'failed');
CREATE INDEX webhook_deliveries_pending
    ON verifyd.webhook_deliveries (endpoint_id, pending_since) WHERE state = 'pending';
