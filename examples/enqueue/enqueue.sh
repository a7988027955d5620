#!/bin/sh
set -eu

run=$(psql "$DATABASE_URL" -X -q -t -A -v ON_ERROR_STOP=1 -v connection="${PROVIDER_CONNECTION_ID:-1}" <<'SQL'
INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
       jsonb_build_object(
           'provider', c.provider,
           'module', coalesce(c.module, 'health_check'),
           'provider_connection_id', c.id,
           'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
       now()
FROM provider_connections c
WHERE c.id = :connection
RETURNING id;
SQL
)
if [ -z "$run" ]; then
    echo 'no such connection' >&2
    exit 1
fi
if [ -n "${REDIS_URL:-}" ]; then
    # After the commit. redis-cli exits with 0 where Redis refuses the command.
    sent=$(timeout 10 redis-cli -u "$REDIS_URL" ${REDIS_USER:+--user "$REDIS_USER"} --eval contracts/enqueue.lua \
        verifyd:data verifyd:active verifyd:signal verifyd:meta , \
        "$(cat /proc/sys/kernel/random/uuid)" "{\"v\":1,\"operation_run_id\":$run}" 1) || true
    [ "$sent" = 1 ] || echo "the hint was not sent${sent:+: $sent}" >&2
fi
echo "$run"
