"""What the parts can do by themselves on this machine: PostgreSQL, nginx, Redis and the disk."""

import hashlib
import json
import os
import shutil
import subprocess
import time

import harness

CLAIM = "UPDATE operation_runs SET status='running', started_at=now() WHERE {rows} AND status<>'x' RETURNING context;\n"
UPSERT = ("INSERT INTO tenant_permissions(tenant_id, permission_key, status, last_checked_at) SELECT t, k, 'granted', now() "
          "FROM {tenants} t, unnest({keys}::text[]) k ON CONFLICT (tenant_id, permission_key) "
          "DO UPDATE SET status=excluded.status, last_checked_at=excluded.last_checked_at")
COMPLETE = ("UPDATE operation_runs SET status='completed', outcome='succeeded', context = context || "
            "jsonb_build_object('verification_report', {report}::jsonb), completed_at=now() WHERE {rows} AND status<>'x';\n")


def scripts():
    """The scripts of pgbench by name: one run at a time, and 64 in one statement."""
    with open(os.path.join(harness.SPEC, "permissions.json"), encoding="utf-8") as file:
        permissions = [p["key"] for p in json.load(file)]
    with open(os.path.join(harness.SPEC, "checks.json"), encoding="utf-8") as file:
        checks = json.load(file)
    report = json.dumps({
        "flow": "provider.connection.check", "fingerprint": hashlib.sha256(b"x").hexdigest(), "checks": [
            dict(check, status="pass", reason_code="ok", next_steps=[], evidence=[
                {"kind": "perm", "value": key + "=granted"}
                for key in permissions[max(0, i - 2) * 5:max(0, i - 1) * 5]])
            for i, check in enumerate(checks)]})

    def fill(text, rows, tenants):
        return text.format(rows=rows, tenants=tenants, keys="'{" + ",".join(permissions) + "}'", report=f"'{report}'")
    one = ("id=:id", "(SELECT :tenant::bigint AS t)")
    many = ("id BETWEEN :f::bigint AND :l::bigint",
            "(SELECT DISTINCT 1 + g % 500 AS t FROM generate_series(:f::bigint, :l::bigint) g ORDER BY 1)")
    pick = "\\set id random(1, 100000)\n\\set tenant 1 + :id % 500\n"
    pick_64 = "\\set b random(0, 380) * 4 + :client_id\n\\set f 1 + :b * 64\n\\set l :f + 63\n"
    run = pick + fill(CLAIM + "BEGIN;\n" + UPSERT + ";\n" + COMPLETE + "COMMIT;\n", *one)
    return {
        "claim": pick + fill(CLAIM, *one),
        "upsert": pick + fill(UPSERT + ";\n", *one),
        "report": pick + fill(COMPLETE, *one),
        "run": run,
        "run_async": "SET synchronous_commit = off;\n" + run,
        "claim_64": pick_64 + fill(CLAIM, *many),
        "upsert_64": pick_64 + fill(UPSERT + ";\n", *many),
        "report_64": pick_64 + fill(COMPLETE, *many),
        "run_64": pick_64 + fill(CLAIM + "WITH p AS (" + UPSERT + ") " + COMPLETE, *many),
    }


def pgbench(sv, script, clients, seconds):
    """Transactions a second, and CPU seconds of PostgreSQL per 1,000 of them."""
    def cpu():
        stats = harness.all_stats()
        return sum(stats[pid][1] for pid in harness.tree(sv.pid("postgres"), stats))
    sv.reset()
    sv.db.execute("SELECT count(*) FROM new_runs(100000, 0)")
    sv.db.execute("VACUUM ANALYZE operation_runs")
    sv.db.execute("CHECKPOINT")
    harness.quiet(10)
    before = cpu()
    r = subprocess.run(harness.as_postgres([
        "pgbench", "-h", "127.0.0.1", "-p", str(harness.PG_PORT), "-U", "postgres", "-n", "-M", "prepared",
        "--max-tries=20", "-c", str(clients), "-j", "1", "-T", str(seconds), "-f", script, "bench"]),
        capture_output=True, text=True, cwd="/", check=False)
    used = cpu() - before
    done = [int(x.split()[-1].split("/")[0]) for x in r.stdout.splitlines() if "actually processed" in x]
    tps = [float(x.split()[2]) for x in r.stdout.splitlines() if x.startswith("tps")]
    if not tps:
        raise RuntimeError(r.stdout + r.stderr)
    return [tps[0], used * 1000 / max(1, done[0])]


def measure(sv, seconds=5):
    """All ceilings, by their titles."""
    out = {}
    folder = os.path.join(sv.run, "pgbench")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for name, text in scripts().items():
        with open(os.path.join(folder, name + ".sql"), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(file.name, 0o644)
    for clients, script, label in (
            (1, "claim", "claim only"), (1, "run", "claim + completion txn"), (16, "run", "claim + completion txn"),
            (64, "claim", "claim only"), (64, "upsert", "upsert of 20 permissions only"),
            (64, "report", "completion UPDATE with report only"), (64, "run", "claim + completion txn"),
            (64, "run_async", "claim + completion txn, synchronous_commit=off (not allowed; shows the wait for fsync)"),
            (4, "claim_64", "64 claims in one statement; × 64 = runs/s"),
            (4, "upsert_64", "64 × 20 permissions in one statement; × 64"),
            (4, "report_64", "64 completion UPDATEs in one statement; × 64"),
            (4, "run_64", "all three, two txns; × 64")):
        title = f"pgbench {label}, {clients} clients (tps; Postgres CPU s per 1000)"
        out[title] = pgbench(sv, f"{folder}/{script}.sql", clients, seconds)
    for path, label in (("x/oauth2/v2.0/token", "token"), ("v1.0/organization", "organization"),
                        ("v1.0/servicePrincipals(appId='x')/appRoleAssignments", "appRoleAssignments")):
        if shutil.which("wrk"):
            harness.quiet(10)
            r = subprocess.run(["wrk", "-t1", "-c64", f"-d{max(3, seconds // 2)}s",
                                f"http://127.0.0.1:{harness.HTTP_PORT}/{path}"], capture_output=True, text=True, check=True)
            rate = [x for x in r.stdout.splitlines() if "Requests/sec" in x][0].split()[1]
            out[f"wrk {label}, 64 conns (req/s)"] = float(rate)
    for pipelined in (1, 16):
        sv.redis.flushall()
        harness.quiet(10)
        r = subprocess.run(["redis-benchmark", "-p", str(harness.REDIS_PORT), "-n", "200000", "-P", str(pipelined),
                            "-d", "32", "-t", "lpush,rpop", "--csv"], capture_output=True, text=True, check=True)
        for line in r.stdout.splitlines():
            cells = line.replace('"', "").split(",")
            if cells[0] in ("LPUSH", "RPOP"):
                out[f"redis-benchmark {cells[0]} -P {pipelined} (ops/s)"] = float(cells[1])
    sv.redis.flushall()
    # fdatasync on the disk below PostgreSQL
    fd = os.open(os.path.join(sv.run, "fsync.probe"), os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * (1 << 20))
    times = []
    for i in range(300):
        os.pwrite(fd, b"y" * 8192, (i % 100) * 8192)
        began = time.perf_counter()
        os.fdatasync(fd)
        times.append((time.perf_counter() - began) * 1000)
    os.close(fd)
    times.sort()
    out["fdatasync 8 KiB p50 (ms)"], out["fdatasync 8 KiB p99 (ms)"] = times[150], times[297]
    return out
