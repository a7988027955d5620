-- For lists of a workspace's runs: without it, one whose latest runs are old is found by reading all
-- that others have recorded since. Only on a table that verifyd made, as the indexes on connection and
-- tenant.
DO $migration$
BEGIN
    IF EXISTS (SELECT FROM verifyd.owned_tables o
               JOIN pg_namespace n ON n.nspname = o.table_schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.table_name
               WHERE o.table_name = 'operation_runs' AND c.oid = to_regclass('operation_runs')) THEN
        CREATE INDEX IF NOT EXISTS operation_runs_check_workspace ON operation_runs (workspace_id, id)
            WHERE type = 'provider.connection.check';
    END IF;
END
$migration$;
