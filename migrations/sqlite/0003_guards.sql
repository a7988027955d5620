-- Guards against whoever else writes runs of verifyd's type: the same rules as in
-- migrations/postgres. `verifyd migrate --enforce` runs this file again where a guard was removed.

-- A completed run stays as it was completed. A writer that saves the row as it once read it, with an
-- older context, does not fail. A trigger cannot change what is about to be written; so this one
-- writes the row itself, with what is final put back, and skips the writer's own change. (The guards
-- do not meet in there: the inner statement changes nothing that is guarded.)
CREATE TRIGGER IF NOT EXISTS verifyd_guard_completed_run BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND old.status = 'completed'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS (old.id, old.type, old.tenant_id, old.workspace_id)
    AND (
        (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary) IS NOT
        (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
        OR json_type(new.context) IS NOT 'object' AND json_type(old.context) = 'object'
        OR json_type(old.context, '$.verification_report') IS NOT NULL
            AND new.context -> '$.verification_report' IS NOT old.context -> '$.verification_report'
        OR old.outcome = 'blocked' AND (
            new.context -> '$.reason_code' IS NOT old.context -> '$.reason_code'
            OR new.context -> '$.next_steps' IS NOT old.context -> '$.next_steps')
    )
BEGIN
    UPDATE operation_runs SET context = CASE
        WHEN json_type(new.context) IS NOT 'object' THEN old.context
        WHEN old.outcome = 'blocked' THEN json_set(new.context,
            '$.verification_report', old.context -> '$.verification_report',
            '$.reason_code', old.context -> '$.reason_code',
            '$.next_steps', old.context -> '$.next_steps')
        WHEN json_type(old.context, '$.verification_report') IS NOT NULL THEN json_set(new.context,
            '$.verification_report', old.context -> '$.verification_report')
        ELSE new.context
    END WHERE id = old.id;
    SELECT RAISE(IGNORE);
END;

-- Whose run it is, and what kind, never changes.
CREATE TRIGGER IF NOT EXISTS verifyd_guard_run_identity BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS NOT (old.id, old.type, old.tenant_id, old.workspace_id)
BEGIN
    SELECT RAISE(ABORT, 'id, type, tenant_id and workspace_id of a run never change');
END;

-- The time of recording is put back: a writer may have rounded it.
CREATE TRIGGER IF NOT EXISTS verifyd_guard_run_recorded AFTER UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND new.created_at IS NOT old.created_at
BEGIN
    UPDATE operation_runs SET created_at = old.created_at WHERE id = old.id;
END;
