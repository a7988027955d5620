-- The row that an answer kept for an idempotency key is about: see migrations/postgres.
ALTER TABLE verifyd_idempotency_keys ADD COLUMN subject TEXT
    CHECK (subject IS NULL OR subject IN ('run', 'acknowledgement'));
ALTER TABLE verifyd_idempotency_keys ADD COLUMN subject_id INTEGER;
ALTER TABLE verifyd_idempotency_keys ADD COLUMN subject_at TEXT;
