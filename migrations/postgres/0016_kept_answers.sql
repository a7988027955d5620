-- The row that an answer kept for an idempotency key is about: the answer counts while that row is there. Since an id
-- may be given again, the row's time of creation is kept, too; NULL where that is no valid time. Without a subject
-- the answer is older than this migration.
ALTER TABLE verifyd.idempotency_keys
    ADD COLUMN subject    text,
    ADD COLUMN subject_id bigint,
    ADD COLUMN subject_at timestamptz,
    ADD CONSTRAINT idempotency_keys_subject CHECK (
        (subject IS NULL) = (subject_id IS NULL)
        AND (subject IS NULL OR subject IN ('run', 'acknowledgement')));
