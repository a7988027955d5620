#!/bin/sh
set -eu

# Prints a percent-encoded text decoded.
decoded() {
    rest=$1
    while [ "$rest" != "${rest#*%}" ]; do
        printf %s "${rest%%\%*}"
        rest=${rest#*%}
        printf %b "\\0$(printf %o "0x${rest%"${rest#??}"}")"
        rest=${rest#??}
    done
    printf %s "$rest"
}

# Sets `user`, `password` and `address`, which lacks both: others on the machine see the arguments of a command.
split() {
    user='' password='' address=$1
    case ${1%%\?*} in
    *://*@*)
        user=${1#*://}
        user=${user%%\?*}
        user=${user%@*}
        address=${1%%://*}://${1#*://"$user"@}
        case $user in *:*) password=$(decoded "${user#*:}") ;; esac
        user=$(decoded "${user%%:*}")
        ;;
    esac
}

split "$DATABASE_URL"
if [ -n "$user" ]; then export PGUSER="$user"; fi
if [ -n "$password" ]; then export PGPASSWORD="$password"; fi
run=$(psql "$address" -X -q -t -A -v ON_ERROR_STOP=1 -v connection="${PROVIDER_CONNECTION_ID:-1}" <<'SQL'
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
    # After the commit.
    split "$REDIS_URL"
    if [ -n "$password" ]; then export REDISCLI_AUTH="$password"; fi
    # It exits with 0 where Redis refuses the command.
    sent=$(timeout 5 redis-cli -u "$address" ${user:+--user "$user"} --eval contracts/enqueue.lua \
        verifyd:data verifyd:active verifyd:signal verifyd:meta , \
        "$(cat /proc/sys/kernel/random/uuid)" "{\"v\":1,\"operation_run_id\":$run}" 1) || true
    [ "$sent" = 1 ] || echo "the hint was not sent${sent:+: $sent}" >&2
fi
echo "$run"
