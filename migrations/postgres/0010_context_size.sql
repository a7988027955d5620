-- A context that a producer records has at most 256 KiB: verifyd reads no larger one (docs/limits.md).
-- Only what is queued for the first time is tested. A run that was claimed before is never refused its
-- way on, however it came about, nor is a completion, which adds verifyd's report. Only on a table that
-- verifyd made, and only where no row breaks it; `verifyd migrate --enforce` adds it later, and on
-- another application's table.
DO $migration$
DECLARE
    runs regclass;
    broken boolean;
BEGIN
    SELECT c.oid INTO runs
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN verifyd.owned_tables o ON o.table_schema = n.nspname AND o.table_name = c.relname
    WHERE c.oid = to_regclass('operation_runs');
    IF runs IS NULL OR EXISTS (SELECT FROM pg_constraint
                               WHERE conrelid = runs AND conname = 'operation_runs_check_context_size') THEN
        RETURN;
    END IF;
    EXECUTE format($sql$
        SELECT EXISTS (SELECT FROM %s WHERE type = 'provider.connection.check' AND status = 'queued'
            AND started_at IS NULL
            AND (pg_column_size(context) > 1048576 OR octet_length(context::text) > 262144))
    $sql$, runs) INTO broken;
    IF NOT broken THEN
        EXECUTE format($sql$
            ALTER TABLE %s ADD CONSTRAINT operation_runs_check_context_size CHECK (
                (type IS DISTINCT FROM 'provider.connection.check'
                 OR status IS DISTINCT FROM 'queued' OR started_at IS NOT NULL OR context IS NULL
                 OR CASE WHEN pg_column_size(context) > 1048576 THEN false
                         ELSE octet_length(context::text) <= 262144 END) IS TRUE)
        $sql$, runs);
    END IF;
END
$migration$;

-- The time of recording is put back only where it is one: infinity and the like may be corrected.
CREATE OR REPLACE FUNCTION verifyd.guard_run_identity() RETURNS trigger LANGUAGE plpgsql AS $guard$
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
    IF old.created_at::timestamptz BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00' THEN
        new.created_at := old.created_at;
    END IF;
    RETURN new;
END
$guard$;
