"""Connections, and the runs that a system has behind it."""

import time
from concurrent.futures import ThreadPoolExecutor

from place import Db, log

WORKSPACES = 20
QUIET = 10  # connections, in a workspace of their own, that have not been checked for long
DAYS = 90
SECRET = "simulated~client.secret_opens-nothing-real"  # of every app of the simulator

# Share of connections by what is wrong with them: number of the simulator's scenario. None of them has
# verifyd wait or ask again.
HEALTHY, PERMISSION_MISSING, SECRET_EXPIRED = 2, 401, 102

RUN = """jsonb_build_object('provider', c.provider, 'module', coalesce(c.module, 'intune'),
    'provider_connection_id', c.id,
    'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id))"""


def base(place, name, connections):
    """A database with connections, each of which was checked once."""
    log(f"{connections} connections")
    place.admin.rows(f"CREATE DATABASE {name} TEMPLATE template0")
    place.verifyd(name, "migrate")
    db = Db(place.url(name))
    db.rows("CREATE EXTENSION pg_stat_statements")
    connect(db, connections)

    def seal(connection):
        place.verifyd(name, "connections", "set-credential", str(connection), "--secret-stdin", stdin=SECRET)
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(seal, range(1, connections + 1)))
    log("each is checked once")
    runs = record(db, connections, connections)
    place.send(name, runs)
    worker = place.serve(name)
    settled(place, db, name, worker)
    worker.stop()
    outcomes = db.rows("SELECT outcome, count(*) FROM operation_runs GROUP BY 1 ORDER BY 1")
    log(" ".join(f"{outcome} {count}" for outcome, count in outcomes))
    if len(outcomes) != 3:
        raise RuntimeError("not every outcome is there")
    db.rows("VACUUM ANALYZE")
    db.close()
    return connections


def connect(db, count):
    """Connections, each of a tenant of its own, without credentials."""
    db.rows(f"""
        INSERT INTO tenants (id, workspace_id, name)
        SELECT n, CASE WHEN n > {count - QUIET} THEN {WORKSPACES + 1} ELSE n % {WORKSPACES} + 1 END,
               'Tenant ' || n FROM generate_series(1, {count}) n;
        INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, display_name, status,
            entra_tenant_id, client_id, cloud, module, created_at)
        SELECT t.id, t.workspace_id, t.id, 'microsoft', t.name,
               CASE WHEN t.id % 100 = 50 THEN 'disabled' ELSE 'enabled' END,
               '5c000000-0000-4000-8000-' || lpad(t.id::text, 8, '0') || lpad(CASE
                   WHEN t.id % 33 = 1 THEN {PERMISSION_MISSING} WHEN t.id % 50 = 2 THEN {SECRET_EXPIRED}
                   ELSE {HEALTHY} END::text, 4, '0'),
               '5c000000-0000-4000-8000-c000' || lpad(t.id::text, 8, '0'), 'simulated', 'intune',
               now() - interval '{DAYS + 1} days'
        FROM tenants t;
        SELECT setval(pg_get_serial_sequence('tenants', 'id'), {count});
        SELECT setval(pg_get_serial_sequence('provider_connections', 'id'), {count})""")


def record(db, count, connections, first=0):
    """Queued runs of the connections in turn, from the `first`th turn on, with the row that says that their
    hint was sent. As verifyd itself records them."""
    return [int(row[0]) for row in db.rows(f"""
        WITH recorded AS (
            INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
            SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued', {RUN}, now()
            FROM generate_series({first}, {first + count - 1}) n
            JOIN provider_connections c ON c.id = (n::bigint * 7919) % {connections} + 1 ORDER BY n
            RETURNING id
        ), delivered AS (
            INSERT INTO verifyd.run_deliveries (run_id, delivered_at) SELECT id, now() FROM recorded
        ) SELECT id FROM recorded ORDER BY id""")]


def settled(place, db, queue, *workers):
    """Waits until no run is left."""
    while place.waiting(queue) > 0:
        for worker in workers:
            worker.alive()
        time.sleep(0.05)
    while db.number("SELECT count(*) FROM operation_runs WHERE type = 'provider.connection.check' "
                    "AND status IN ('queued', 'running')") > 0:
        for worker in workers:
            worker.alive()
        time.sleep(0.05)


CHUNK = 20_000


def fill(db, count, connections):
    """So many completed runs more, made of the reports that the connections have, each linked to the one
    before. Then what else a system has that completed them."""
    if count == 0:
        db.rows("VACUUM ANALYZE")
        return
    active = connections - QUIET
    db.rows("""
        CREATE TABLE public.template AS
        SELECT r.id, r.workspace_id, r.tenant_id, r.outcome, r.context, r.failure_summary,
               (r.context ->> 'provider_connection_id')::bigint AS connection
        FROM operation_runs r WHERE status = 'completed';
        ALTER TABLE public.template ADD PRIMARY KEY (connection);
        ANALYZE public.template""")
    first = int(db.number("SELECT max(id) + 1 FROM operation_runs"))
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count) - 1
        db.rows(f"""
            WITH made AS (
                -- The quiet ones take part in the first tenth only.
                SELECT n, {first} + n AS id,
                       CASE WHEN n < {count // 10} THEN n % {connections} ELSE n % {active} END + 1 AS connection,
                       CASE WHEN n < {count // 10} THEN {connections} ELSE {active} END AS round,
                       date_trunc('milliseconds',
                           now() - interval '{DAYS} days' + n * (interval '{DAYS} days' / {count})) AS at
                FROM generate_series({start}, {end}) n
            ), recorded AS (
                INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, outcome, context,
                    failure_summary, created_at, started_at, completed_at)
                SELECT m.id, t.workspace_id, t.tenant_id, 'provider.connection.check', 'completed', t.outcome,
                       jsonb_set(jsonb_set(t.context, '{{verification_report,previous_report_id}}',
                           to_jsonb(CASE WHEN m.n < m.round THEN t.id ELSE m.id - m.round END)),
                           '{{verification_report,generated_at}}',
                           to_jsonb(to_char(m.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))),
                       t.failure_summary, m.at - interval '400 ms', m.at - interval '350 ms', m.at
                FROM made m JOIN public.template t USING (connection) ORDER BY m.n
                RETURNING id, completed_at
            )
            INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at,
                deadline_at, ended_at, end_reason)
            SELECT id, 1, gen_random_uuid(), 'worker-of-' || id % 4, true, completed_at - interval '350 ms',
                   completed_at + interval '60 s', completed_at, 'completed' FROM recorded""")
        if end % (CHUNK * 10) == CHUNK * 10 - 1:
            log(f"  {end + 1:,} runs")
    db.rows(f"""
        SELECT setval(pg_get_serial_sequence('operation_runs', 'id'), (SELECT max(id) FROM operation_runs));
        WITH latest AS (
            SELECT DISTINCT ON (tenant_id) tenant_id, id, completed_at FROM operation_runs
            WHERE type = 'provider.connection.check' ORDER BY tenant_id, id DESC
        ), reports AS (
            UPDATE verifyd.latest_reports l SET operation_run_id = r.id, completed_at = r.completed_at,
                changed = false FROM latest r WHERE r.tenant_id = l.connection_id
        )
        UPDATE verifyd.tenant_inventory i SET operation_run_id = r.id, refreshed_at = r.completed_at
        FROM latest r WHERE r.tenant_id = i.tenant_id;
        -- Webhooks of the last seven days, which is how long they are kept, to endpoints that are switched off
        -- by now: nothing shall be sent anywhere.
        INSERT INTO verifyd.webhook_endpoints (workspace_id, url, changed_only, secret, enabled, disabled_reason)
        SELECT w, 'https://app.example/hooks/verifyd', false, '', false, 'operator'
        FROM generate_series(1, {WORKSPACES}) w;
        WITH sent AS (
            INSERT INTO verifyd.webhook_deliveries (endpoint_id, message_id, operation_run_id, payload, state,
                attempts, tries, next_attempt_at, created_at, ended_at)
            SELECT e.id, gen_random_uuid()::text, r.id, repeat('x', 600), 'delivered', 1, 1, r.completed_at,
                   r.completed_at, r.completed_at
            FROM operation_runs r JOIN verifyd.webhook_endpoints e USING (workspace_id)
            WHERE r.id > {first} + {count} - {count * 7 // DAYS} RETURNING id, created_at
        )
        INSERT INTO verifyd.webhook_attempts (delivery_id, attempt, started_at, duration_ms, result, http_status)
        SELECT id, 1, created_at, 40, 'delivered', 204 FROM sent;
        DROP TABLE public.template""")
    db.rows("VACUUM ANALYZE")
