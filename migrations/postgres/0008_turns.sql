-- For turns (docs/architecture.md): the tenants that have something queued, and the oldest run of each,
-- without reading what is queued besides. Only on a table that verifyd made; on another application's
-- `verifyd migrate --enforce` builds it, without holding anybody up.
DO $migration$
BEGIN
    IF EXISTS (SELECT FROM verifyd.owned_tables o
               JOIN pg_namespace n ON n.nspname = o.table_schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.table_name
               WHERE o.table_name = 'operation_runs' AND c.oid = to_regclass('operation_runs')) THEN
        CREATE INDEX IF NOT EXISTS operation_runs_check_turns ON operation_runs (tenant_id, id)
            WHERE type = 'provider.connection.check' AND status = 'queued';
    END IF;
END
$migration$;
