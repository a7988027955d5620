-- For turns (docs/architecture.md): the tenants that have something queued, and the oldest run of each,
-- without reading what is queued besides.
CREATE INDEX operation_runs_check_turns ON operation_runs (tenant_id, id)
    WHERE type = 'provider.connection.check' AND status = 'queued';
