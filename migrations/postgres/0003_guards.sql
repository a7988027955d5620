-- Guards against whoever else writes runs of verifyd's type. Trigger functions are verifyd's own;
-- the triggers are put on operation_runs only where verifyd owns it. Where it is another
-- application's, `verifyd migrate --enforce` puts them there.

-- A completed run stays as it was completed. A writer that saves the row as it once read it, with an
-- older context, is not at fault and does not fail: the statement goes through, and what is final is
-- put back.
CREATE FUNCTION verifyd.guard_completed_run() RETURNS trigger LANGUAGE plpgsql AS $guard$
DECLARE
    wanted jsonb := new.context;
BEGIN
    IF jsonb_typeof(old.context) = 'object' THEN
        IF jsonb_typeof(wanted) IS DISTINCT FROM 'object' THEN
            wanted := old.context;
        END IF;
        SELECT wanted || coalesce(jsonb_object_agg(key, value), '{}') INTO wanted
        FROM jsonb_each(old.context)
        WHERE key = 'verification_report'
           OR old.outcome = 'blocked' AND key IN ('reason_code', 'next_steps');
    END IF;
    IF wanted IS DISTINCT FROM new.context
       OR (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary)
           IS DISTINCT FROM
           (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
    THEN
        new.context := wanted;
        new.status := old.status;
        new.outcome := old.outcome;
        new.started_at := old.started_at;
        new.completed_at := old.completed_at;
        new.failure_summary := old.failure_summary;
        RAISE WARNING 'run % is completed: outcome, times, failures and report stay as they are', old.id;
    END IF;
    RETURN new;
END
$guard$;

-- Whose run it is, and what kind, never changes. Nobody does that by saving an older copy, so it is
-- refused. One exception: a foreign key of the application's with ON DELETE SET NULL (that is a
-- trigger, too, hence the depth). The time of recording is put back: a writer may have rounded it.
CREATE FUNCTION verifyd.guard_run_identity() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF (new.id, new.type) IS DISTINCT FROM (old.id, old.type)
       OR new.tenant_id IS DISTINCT FROM old.tenant_id
           AND NOT (new.tenant_id IS NULL AND pg_trigger_depth() > 1)
       OR new.workspace_id IS DISTINCT FROM old.workspace_id
           AND NOT (new.workspace_id IS NULL AND pg_trigger_depth() > 1)
    THEN
        RAISE EXCEPTION 'id, type, tenant_id and workspace_id of run % never change', old.id
            USING ERRCODE = 'check_violation', CONSTRAINT = tg_name, TABLE = tg_table_name,
                  SCHEMA = tg_table_schema;
    END IF;
    new.created_at := coalesce(old.created_at, new.created_at);
    RETURN new;
END
$guard$;

DO $migration$
DECLARE
    runs regclass;
BEGIN
    SELECT c.oid INTO runs
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN verifyd.owned_tables o ON o.table_schema = n.nspname AND o.table_name = c.relname
    WHERE c.oid = to_regclass('operation_runs');
    IF runs IS NOT NULL THEN
        EXECUTE format($sql$
            CREATE TRIGGER verifyd_guard_completed_run BEFORE UPDATE ON %s FOR EACH ROW
            WHEN (old.type = 'provider.connection.check' AND old.status = 'completed')
            EXECUTE FUNCTION verifyd.guard_completed_run()
        $sql$, runs);
        EXECUTE format($sql$
            CREATE TRIGGER verifyd_guard_run_identity BEFORE UPDATE ON %s FOR EACH ROW
            WHEN (old.type = 'provider.connection.check' AND
                (new.id, new.type, new.tenant_id, new.workspace_id, new.created_at) IS DISTINCT FROM
                (old.id, old.type, old.tenant_id, old.workspace_id, old.created_at))
            EXECUTE FUNCTION verifyd.guard_run_identity()
        $sql$, runs);
    END IF;
END
$migration$;
