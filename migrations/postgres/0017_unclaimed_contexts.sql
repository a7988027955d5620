-- The size of a context (migration 10) is tested for a run that is recorded as running, too: the sweep queues it later,
-- and that must not be refused. A claim sets started_at, so what verifyd has claimed is never tested. Only on a table
-- that verifyd made, and only where no row breaks it; `verifyd migrate --enforce` adds it later, and on another
-- application's table.
DO $migration$
DECLARE
    runs regclass;
    broken boolean;
BEGIN
    SELECT c.oid INTO runs
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN verifyd.owned_tables o ON o.table_schema = n.nspname AND o.table_name = c.relname
    WHERE c.oid = to_regclass('operation_runs');
    IF runs IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format($sql$
        SELECT EXISTS (SELECT FROM %s WHERE type = 'provider.connection.check'
            AND status IN ('queued', 'running') AND started_at IS NULL
            AND (pg_column_size(context) > 1048576 OR octet_length(context::text) > 262144))
    $sql$, runs) INTO broken;
    IF NOT broken THEN
        EXECUTE format($sql$
            ALTER TABLE %s DROP CONSTRAINT IF EXISTS operation_runs_check_context_size,
                ADD CONSTRAINT operation_runs_check_context_size CHECK (
                (type IS DISTINCT FROM 'provider.connection.check'
                 OR (status IN ('queued', 'running')) IS NOT TRUE OR started_at IS NOT NULL OR context IS NULL
                 OR CASE WHEN pg_column_size(context) > 1048576 THEN false
                         ELSE octet_length(context::text) <= 262144 END) IS TRUE)
        $sql$, runs);
    END IF;
END
$migration$;
