-- Attempts of an earlier run of the same id are kept, and never count for the later one: see
-- migrations/postgres.
ALTER TABLE verifyd_run_attempts ADD COLUMN earlier INTEGER NOT NULL DEFAULT 0 CHECK (earlier IN (0, 1));
