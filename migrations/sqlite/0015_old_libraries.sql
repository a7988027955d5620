-- Producers write this file with their own library of SQLite: triggers and indexes use nothing that is
-- newer than version 3.37, which STRICT tables need anyway. So no `octet_length` and no `->`. Otherwise
-- these are the guards of migrations 3 and 10, and the index of migration 2 under another name.
-- `verifyd migrate --enforce` runs this file again.
DROP INDEX IF EXISTS operation_runs_check_connection;
CREATE INDEX IF NOT EXISTS operation_runs_check_by_connection
    ON operation_runs (CAST(json_extract(context, '$.provider_connection_id') AS TEXT), id)
    WHERE type = 'provider.connection.check';

-- A completed run stays as it was completed. A writer that saves the row as it once read it, with an
-- older context, does not fail. A trigger cannot change what is about to be written; so this one
-- writes the row itself, with what is final put back, and skips the writer's own change. (The guards
-- do not meet in there: the inner statement changes nothing that is guarded.)
DROP TRIGGER IF EXISTS verifyd_guard_completed_run;
CREATE TRIGGER verifyd_guard_completed_run BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND old.status = 'completed'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS (old.id, old.type, old.tenant_id, old.workspace_id)
    AND (
        (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary) IS NOT
        (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
        OR json_type(new.context) IS NOT 'object' AND json_type(old.context) = 'object'
        -- With the types: a text may look like the object or array whose place it takes.
        OR json_type(old.context, '$.verification_report') = 'object' AND
            (json_type(new.context, '$.verification_report'),
             json_extract(new.context, '$.verification_report')) IS NOT
            ('object', json_extract(old.context, '$.verification_report'))
        OR old.outcome = 'blocked' AND
            (json_type(new.context, '$.reason_code'), json_extract(new.context, '$.reason_code'),
             json_type(new.context, '$.next_steps'), json_extract(new.context, '$.next_steps')) IS NOT
            (json_type(old.context, '$.reason_code'), json_extract(old.context, '$.reason_code'),
             json_type(old.context, '$.next_steps'), json_extract(old.context, '$.next_steps'))
    )
BEGIN
    UPDATE operation_runs SET context = CASE
        WHEN json_type(new.context) IS NOT 'object' THEN old.context
        WHEN old.outcome = 'blocked' THEN json_set(new.context,
            '$.verification_report', json_extract(old.context, '$.verification_report'),
            '$.reason_code', json_extract(old.context, '$.reason_code'),
            '$.next_steps', json_extract(old.context, '$.next_steps'))
        WHEN json_type(old.context, '$.verification_report') = 'object' THEN json_set(new.context,
            '$.verification_report', json_extract(old.context, '$.verification_report'))
        ELSE new.context
    END WHERE id = old.id;
    SELECT RAISE(IGNORE);
END;

-- Whose run it is, and what kind, never changes.
DROP TRIGGER IF EXISTS verifyd_guard_run_identity;
CREATE TRIGGER verifyd_guard_run_identity BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS NOT (old.id, old.type, old.tenant_id, old.workspace_id)
BEGIN
    SELECT RAISE(ABORT, 'id, type, tenant_id and workspace_id of a run never change');
END;

-- The time of recording is put back: a writer may have rounded it.
DROP TRIGGER IF EXISTS verifyd_guard_run_recorded;
CREATE TRIGGER verifyd_guard_run_recorded AFTER UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND new.created_at IS NOT old.created_at
BEGIN
    UPDATE operation_runs SET created_at = old.created_at WHERE id = old.id;
END;

-- A context that a producer records has at most 256 KiB: verifyd reads no larger one. SQLite cannot add
-- a constraint to a table that is there, so these are triggers. Only what is queued for the first time
-- is tested: never a run on its way, nor a completion.
DROP TRIGGER IF EXISTS verifyd_guard_context_size;
CREATE TRIGGER verifyd_guard_context_size BEFORE INSERT ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status = 'queued' AND new.started_at IS NULL
    AND length(CAST(new.context AS BLOB)) > 262144
BEGIN
    SELECT RAISE(ABORT, 'the context of a run has more than 262144 bytes');
END;

DROP TRIGGER IF EXISTS verifyd_guard_context_size_kept;
CREATE TRIGGER verifyd_guard_context_size_kept BEFORE UPDATE OF context ON operation_runs
WHEN new.type = 'provider.connection.check' AND new.status = 'queued' AND new.started_at IS NULL
    AND length(CAST(new.context AS BLOB)) > 262144
BEGIN
    SELECT RAISE(ABORT, 'the context of a run has more than 262144 bytes');
END;

-- After the largest id SQLite gives no other: one such row would keep every later one out.
DROP TRIGGER IF EXISTS verifyd_guard_run_id;
CREATE TRIGGER verifyd_guard_run_id BEFORE INSERT ON operation_runs
WHEN new.id > 4611686018427387904
BEGIN
    SELECT RAISE(ABORT, 'the id of a run is at most 4611686018427387904');
END;
