-- A context that a producer records has at most 256 KiB: verifyd reads no larger one (docs/limits.md).
-- SQLite cannot add a constraint to a table that is there, so these are triggers. Only what is queued
-- for the first time is tested: never a run on its way, nor a completion.
CREATE TRIGGER IF NOT EXISTS verifyd_guard_context_size BEFORE INSERT ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status = 'queued' AND new.started_at IS NULL
    AND octet_length(new.context) > 262144
BEGIN
    SELECT RAISE(ABORT, 'the context of a run has more than 262144 bytes');
END;

CREATE TRIGGER IF NOT EXISTS verifyd_guard_context_size_kept BEFORE UPDATE OF context ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status = 'queued' AND new.started_at IS NULL
    AND octet_length(new.context) > 262144
BEGIN
    SELECT RAISE(ABORT, 'the context of a run has more than 262144 bytes');
END;

-- After the largest id SQLite gives no other: one such row would keep every later one out.
CREATE TRIGGER IF NOT EXISTS verifyd_guard_run_id BEFORE INSERT ON operation_runs
WHEN new.id > 4611686018427387904
BEGIN
    SELECT RAISE(ABORT, 'the id of a run is at most 4611686018427387904');
END;
