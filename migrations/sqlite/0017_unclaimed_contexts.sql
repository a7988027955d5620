-- Whoever writes a run's row loads all of it, so no run that a worker may take holds more than verifyd reads, however it
-- is recorded: as running, with a start, or first as a run of another type. Only what other writers put into a row is
-- tested: a claim and a queued run change neither of these columns, and a completion is never refused. The times are
-- texts, too, and every list reads them, whatever the status.
-- `verifyd migrate --enforce` runs this file again.
DROP TRIGGER IF EXISTS verifyd_guard_context_size;
CREATE TRIGGER verifyd_guard_context_size BEFORE INSERT ON operation_runs
WHEN new.type = 'provider.connection.check'
    AND (new.status IN ('queued', 'running')
            AND (length(CAST(new.context AS BLOB)) > 262144
                OR length(CAST(new.failure_summary AS BLOB)) > 262144)
        OR length(CAST(new.created_at AS BLOB)) > 64
        OR length(CAST(new.started_at AS BLOB)) > 64
        OR length(CAST(new.completed_at AS BLOB)) > 64)
BEGIN
    SELECT RAISE(ABORT, 'context or failure_summary of a run has more than 262144 bytes, or a time more than 64');
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

-- A claim sets the start of a run: only a time that changes is tested.
DROP TRIGGER IF EXISTS verifyd_guard_time_size_kept;
CREATE TRIGGER verifyd_guard_time_size_kept BEFORE UPDATE OF created_at, started_at, completed_at, type ON operation_runs
WHEN new.type = 'provider.connection.check'
    AND ((old.type, old.created_at) IS NOT (new.type, new.created_at)
            AND length(CAST(new.created_at AS BLOB)) > 64
        OR (old.type, old.started_at) IS NOT (new.type, new.started_at)
            AND length(CAST(new.started_at AS BLOB)) > 64
        OR (old.type, old.completed_at) IS NOT (new.type, new.completed_at)
            AND length(CAST(new.completed_at AS BLOB)) > 64)
BEGIN
    SELECT RAISE(ABORT, 'a time of a run has more than 64 bytes');
END;
