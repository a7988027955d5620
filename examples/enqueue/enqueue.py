import json
import os
import pathlib
import sys
import uuid

import psycopg

if os.environ.get("REDIS_URL"):
    import redis

with psycopg.connect(os.environ["DATABASE_URL"]) as db:
    run_id, = db.execute(
        """
        INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
        SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
               jsonb_build_object(
                   'provider', c.provider,
                   'module', coalesce(c.module, 'health_check'),
                   'provider_connection_id', c.id,
                   'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
               now()
        FROM provider_connections c
        WHERE c.id = %s
        RETURNING id
        """,
        [int(os.environ.get("PROVIDER_CONNECTION_ID", 1))],
    ).fetchone() or sys.exit("no such connection")

if os.environ.get("REDIS_URL"):
    # After the commit.
    try:
        queue = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=10)
        enqueue = queue.register_script(pathlib.Path("contracts/enqueue.lua").read_text())
        enqueue(
            keys=["verifyd:data", "verifyd:active", "verifyd:signal", "verifyd:meta"],
            args=[str(uuid.uuid4()), json.dumps({"v": 1, "operation_run_id": run_id}), 1],
        )
    except (redis.RedisError, OSError) as error:
        print(f"the hint was not sent: {error}", file=sys.stderr)
    except ValueError:
        # Its text may have a part of the password.
        print("the hint was not sent: REDIS_URL is no address", file=sys.stderr)

print(run_id)
