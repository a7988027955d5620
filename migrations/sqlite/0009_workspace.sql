-- For lists of a workspace's runs: without it, one whose latest runs are old is found by reading all
-- that others have recorded since.
CREATE INDEX operation_runs_check_workspace ON operation_runs (workspace_id, id)
    WHERE type = 'provider.connection.check';
