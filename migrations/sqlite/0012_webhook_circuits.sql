-- The circuit of an endpoint: after failures in a row nothing is tried, but one delivery after a pause.
-- Pauses since it was closed; 0: it is closed.
ALTER TABLE verifyd_webhook_endpoints ADD COLUMN circuit_pauses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE verifyd_webhook_endpoints ADD COLUMN circuit_opened_at TEXT;
-- When the next probe may go; while one is under way, when that counts as lost.
ALTER TABLE verifyd_webhook_endpoints ADD COLUMN circuit_probe_at TEXT;

-- Since it was recorded, or put to the beginning. What is pending now has its time before it.
ALTER TABLE verifyd_webhook_deliveries ADD COLUMN pending_since TEXT;
UPDATE verifyd_webhook_deliveries SET pending_since = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE state = 'pending';
ALTER TABLE verifyd_webhook_deliveries ADD COLUMN give_up_reason TEXT
    CHECK (give_up_reason IS NULL OR give_up_reason IN ('attempts', 'age', 'gone'));
CREATE INDEX verifyd_webhook_deliveries_pending
    ON verifyd_webhook_deliveries (endpoint_id, pending_since) WHERE state = 'pending';
