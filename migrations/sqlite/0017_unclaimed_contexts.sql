-- Whoever writes a run's row loads all of it, so no run that a worker may take holds more than verifyd reads, however it
-- is recorded: as running, with a start, or first as a run of another type. Only what other writers put into a row is
-- tested: a claim and a queued run change neither of these columns, and a completion is never refused.
-- `verifyd migrate --enforce` runs this file again.
DROP TRIGGER IF EXISTS verifyd_guard_context_size;
CREATE TRIGGER verifyd_guard_context_size BEFORE INSERT ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status IN ('queued', 'running')
    AND (length(CAST(new.context AS BLOB)) > 262144
        OR length(CAST(new.failure_summary AS BLOB)) > 262144)
BEGIN
    SELECT RAISE(ABORT, 'context or failure_summary of a run has more than 262144 bytes');
END;

-- What is saved over a completed run is put back: see verifyd_guard_completed_run.
DROP TRIGGER IF EXISTS verifyd_guard_context_size_kept;
CREATE TRIGGER verifyd_guard_context_size_kept BEFORE UPDATE OF context, failure_summary, type ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status IN ('queued', 'running')
    AND (old.type, old.status) IS NOT ('provider.connection.check', 'completed')
    AND (length(CAST(new.context AS BLOB)) > 262144
        OR length(CAST(new.failure_summary AS BLOB)) > 262144)
BEGIN
    SELECT RAISE(ABORT, 'context or failure_summary of a run has more than 262144 bytes');
END;
