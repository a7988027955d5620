"""Makes the harness's database ready for verifyd; started by it before each measurement.

It may be repeated. Tenants, connections and sealed credentials are made once for each database;
what runs have left behind in verifyd's own tables goes each time.
"""

import json
import os
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psycopg

HERE = os.path.dirname(os.path.abspath(__file__))
CANDIDATE = os.path.join(HERE, "candidate")
TENANTS = 500

# As new_runs() of the harness names them.
ENTRA_TENANT_ID = "'00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0')"


def verifyd(*arguments, stdin=None):
    subprocess.run([CANDIDATE, *arguments], input=stdin, check=True, text=True,
                   stdout=subprocess.DEVNULL)


def seal(connection):
    """A credential for this connection, by verifyd's own command. It is sent over standard input."""
    verifyd("connections", "set-credential", str(connection), "--secret-stdin",
            stdin=secrets.token_urlsafe(30))


def give_credentials(db, connections):
    """A sealed credential for each. They are sealed once and kept beside the key, as 500 starts of a
    command take a while: an envelope opens only with that key, and only for its own connection."""
    kept = os.path.join(os.path.dirname(os.environ["VERIFYD_BENCH_KEYS"]), "credentials.json")
    if os.path.exists(kept):
        with open(kept, encoding="utf-8") as file:
            rows = json.load(file)
        with db.cursor() as cursor:
            cursor.executemany("INSERT INTO provider_credentials (provider_connection_id, kind, payload) "
                               "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", rows)
    else:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(seal, connections))
        rows = db.execute("SELECT provider_connection_id, kind, payload FROM provider_credentials").fetchall()
        with open(kept + ".new", "w", encoding="utf-8") as file:
            json.dump(rows, file)
        os.replace(kept + ".new", kept)
    db.execute("VACUUM ANALYZE tenants, provider_connections, provider_credentials")


def main():
    db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    # The harness's tables are another application's; the one column that verifyd misses there is
    # what `verifyd doctor` says.
    db.execute("ALTER TABLE tenant_permissions ADD COLUMN IF NOT EXISTS details jsonb NOT NULL DEFAULT '{}'")
    # With --enforce: the guards, the trigger that wakes workers and the index that verifyd recommends
    # for a table of another application (docs/guides/operate.md).
    guards = os.environ.get("VERIFYD_BENCH_GUARDS", "on") == "on"
    verifyd("migrate", *(["--enforce"] if guards else []))

    db.execute("INSERT INTO tenants (id, workspace_id, name) "
               "SELECT n, 1, 'Tenant ' || n FROM generate_series(1, %s) n ON CONFLICT DO NOTHING", (TENANTS,))
    db.execute("INSERT INTO provider_connections "
               "(id, workspace_id, tenant_id, provider, display_name, entra_tenant_id, client_id, cloud, module) "
               f"SELECT n, 1, n, 'microsoft', 'Tenant ' || n, {ENTRA_TENANT_ID}, "
               "'5c000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'), 'bench', 'health_check' "
               "FROM generate_series(1, %s) n ON CONFLICT DO NOTHING", (TENANTS,))
    without = [row[0] for row in db.execute(
        "SELECT c.id FROM provider_connections c LEFT JOIN provider_credentials s "
        "ON s.provider_connection_id = c.id WHERE s.id IS NULL ORDER BY c.id")]
    if without:
        give_credentials(db, without)

    # All that runs have left: every table of verifyd's own but the record of what it has made.
    own = [row[0] for row in db.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname = 'verifyd' AND tablename <> 'owned_tables' AND tablename NOT LIKE '%migrations%'")]
    db.execute("TRUNCATE " + ", ".join(own))
    db.execute("ANALYZE tenant_permissions")


if __name__ == "__main__":
    main()
