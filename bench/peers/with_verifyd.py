"""The harness with verifyd as its candidate. Started by `run`; see bench/README.md.

What verifyd needs besides is added to the harness from here, function by function, so that nothing of it
touches what peers and floors are given and how they are measured.
"""

import argparse
import base64
import datetime
import hashlib
import json
import os
import platform
import secrets
import shlex
import shutil
import signal
import subprocess
import sys

import harness
import jsonschema
import psycopg

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CANDIDATE = "candidate"
DATABASE = "bench_verifyd"
SAMPLE = 25  # reports of which everything is looked at

GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"
SERVICE_PRINCIPAL = "9d1d5b1c-6e55-4c64-8c55-5f6c0d4f7a11"
TENANTS = 500


# ---------------------------------------------------------------- the provider
def entra_tenant(number):
    return f"00000000-0000-4000-8000-{number:012x}"


def access_token(number, permissions):
    """A token as Entra's: readable claims with the directory and all granted roles, which verifyd
    compares with the assignments. Its third part begins with the directory, so that nginx can tell
    whose it is. About as long as the peers' token."""
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
    claims = {"tid": entra_tenant(number), "roles": [p["key"] for p in permissions]}
    token = f"{part({'typ': 'JWT', 'alg': 'RS256'})}.{part(claims)}.{entra_tenant(number)}"
    return token + "A" * max(0, 1150 - len(token))


def verifyd_servers(slow_ports):
    """nginx's answers to verifyd's Microsoft adapter, on ports of their own: the adapter asks for the
    service principal beside its assignments, for the roles of Graph, and it looks whether the
    directory that answers is the one of the connection."""
    with open(os.path.join(harness.SPEC, "permissions.json"), encoding="utf-8") as file:
        permissions = json.load(file)
    token, organization, assignments = harness.provider_payloads()
    token = json.dumps({**json.loads(token), "access_token": "@ISSUED@"}).replace("@ISSUED@", "$issued")
    organization = json.loads(organization)
    organization["value"][0]["id"] = "@ASKED@"
    organization = json.dumps(organization).replace("@ASKED@", "$asked")
    principal = json.dumps({"id": SERVICE_PRINCIPAL, "accountEnabled": True,
                            "appOwnerOrganizationId": entra_tenant(1)})
    graph = json.dumps({"appId": GRAPH_APP_ID, "appRoles": [
        {"id": p["app_role_id"], "value": p["key"]} for p in permissions]})
    guid = "[0-9a-f-]{36}"
    answers = (
        (rf"^/(?<directory>{guid})/oauth2/v2\.0/token$", token),
        (r"^/v1\.0/organization$", organization),
        (r"^/v1\.0/servicePrincipals\(appId='[^']+'\)$", principal),
        (rf"^/v1\.0/servicePrincipals/{guid}/appRoleAssignments$", assignments),
        (rf"^/v1\.0/servicePrincipals/{guid}$", graph),
    )

    def locations(slow):
        out = []
        for match, body in answers:
            chunks = [body[i:i + 3000] for i in range(0, len(body), 3000)]  # as the harness does
            sets = "".join(f"      set $v{i} '{chunk}';\n" for i, chunk in enumerate(chunks))
            whole = "".join(f"$v{i}" for i in range(len(chunks)))
            act = f'echo_sleep 0.1; echo -n "{whole}";' if slow else f'return 200 "{whole}";'
            out.append(f'    location ~ "{match}" {{\n      default_type application/json;\n{sets}      {act}\n    }}\n')
        return "".join(out)
    issued = "".join(f"    {entra_tenant(n)} {access_token(n, permissions)};\n" for n in range(1, TENANTS + 1))
    servers = "".join(f"  server {{ listen 127.0.0.1:{port} backlog=4096;\n{locations(slow)}  }}\n"
                      for slow, port in slow_ports.items())
    return (f"  map_hash_max_size 4096;\n  map $directory $issued {{\n{issued}  }}\n"
            f'  map $http_authorization $asked {{\n    "~^Bearer [^.]+\\.[^.]+\\.(?<whose>{guid})" $whose;\n  }}\n'
            + servers)


def patch_provider():
    ports = {False: harness.HTTP_PORT + 2, True: harness.HTTP_PORT + 3}
    conf, env = harness.nginx_conf, harness.base_env

    def nginx_conf(run):
        head, brace, rest = conf(run).rpartition("}")
        return head + verifyd_servers(ports) + brace + rest

    def base_env(peer, slow, conc):
        out = env(peer, slow, conc)
        if peer is harness.PEERS.get(CANDIDATE):
            out["PROVIDER_URL"] = f"http://127.0.0.1:{ports[bool(slow)]}"
        return out
    harness.nginx_conf, harness.base_env = nginx_conf, base_env


# ---------------------------------------------------------------- the database
def patch_database(options):
    """verifyd gets a database of its own in the same server, with the harness's schema in it: its
    triggers, its index and its column must not weigh on the peers."""
    start, spawn = harness.Services.start, harness.Services.spawn
    own = harness.DSN.rpartition("/")[0] + "/" + DATABASE

    def started(self):
        start(self)
        self.db.execute(f"CREATE DATABASE {DATABASE}")
        self.own = psycopg.connect(own, autocommit=True)
        # Whoever sends a hint says so (docs/guides/notifications.md): the harness's rows in (c) shall not wake
        # the worker before the clock of the enqueue call runs.
        self.own.execute("SET verifyd.told = 'on'")
        with open(os.path.join(harness.SPEC, "schema.sql"), encoding="utf-8") as file:
            self.own.execute(file.read())
        if options.statements:
            self.own.execute("CREATE EXTENSION pg_stat_statements")

    def spawned(self, name, cmd):
        if name == "postgres" and options.statements:
            cmd = cmd + ["-c", "shared_preload_libraries=pg_stat_statements", "-c", "track_io_timing=on"]
        spawn(self, name, cmd)
    harness.Services.start, harness.Services.spawn = started, spawned

    def in_own_database(measure):
        def measured(sv, name, *args, **kwargs):
            if name != CANDIDATE:
                return measure(sv, name, *args, **kwargs)
            before = harness.DSN, sv.db
            harness.DSN, sv.db = own, sv.own
            try:
                return measure(sv, name, *args, **kwargs)
            finally:
                harness.DSN, sv.db = before
        return measured
    for measure in ("drain", "latency", "enqueue"):
        setattr(harness, measure, in_own_database(getattr(harness, measure)))


# ---------------------------------------------------------------- what a run must have left
def fingerprint(report, evidence_order):
    """The fingerprint again, from the report alone: SHA-256 over the RFC 8785 form of what stays the
    same while nothing changed. There are only texts, booleans and nulls with keys in ASCII, for which
    sorted keys without blanks are that form."""
    passing = {"request_id", "correlation_id", "trace_id", "attempts"}
    checks = [{
        "key": c["key"], "status": c["status"], "severity": c["severity"], "blocking": c["blocking"],
        "reason_code": c["reason_code"],
        "evidence": sorted((e for e in c["evidence"] if e["kind"] not in passing),
                           key=lambda e: (evidence_order.index(e["kind"]), e["value"])),
    } for c in sorted(report["checks"], key=lambda c: c["key"])]
    stable = {"schema_version": report["schema_version"], "flow": report["flow"],
              "target": report["identity"], "checks": checks}
    canonical = json.dumps(stable, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def patch_verify():
    schema_file = os.path.join(ROOT, "contracts", "verification-report.v1_5.schema.json")
    with open(schema_file, encoding="utf-8") as file:
        schema = json.load(file)
    validator = jsonschema.Draft202012Validator(schema)
    order = schema["$defs"]["evidence"]["properties"]["kind"]["enum"]
    verify = harness.verify

    def verify_candidate(sv, n):
        def one(sql, *args):
            return sv.db.execute(sql, args).fetchone()
        runs = one("SELECT count(*), count(*) FILTER (WHERE outcome = 'succeeded'), count(DISTINCT tenant_id) "
                   "FROM operation_runs WHERE status = 'completed'")
        assert runs[:2] == (n, n), ("completed", runs, n)
        tenants = runs[2]
        stale = one("SELECT count(*) FROM tenant_permissions p WHERE status <> 'granted' "
                    "AND tenant_id IN (SELECT tenant_id FROM operation_runs)")[0]
        assert stale == 0, ("stale permissions", stale)
        keys = one("SELECT count(*) FROM tenant_permissions WHERE tenant_id IN (SELECT tenant_id FROM operation_runs)")[0]
        assert keys == 20 * tenants, ("permissions", keys, tenants)
        fresh = one("SELECT count(*) FROM verifyd.tenant_inventory")[0]
        assert fresh == tenants, ("freshness rows", fresh, tenants)
        attempts = one("SELECT count(*), count(DISTINCT run_id), "
                       "count(*) FILTER (WHERE end_reason = 'completed' AND ended_at IS NOT NULL) "
                       "FROM verifyd.run_attempts")
        assert attempts == (n, n, n), ("attempts", attempts, n)
        size = 0
        for run, tenant, context in sv.db.execute(
                "SELECT id, tenant_id, context FROM operation_runs ORDER BY random() LIMIT %s", (SAMPLE,)).fetchall():
            report = context["verification_report"]
            validator.validate(report)
            assert context["provider"] == "microsoft" and len(report["checks"]) >= 6, run
            assert all(c["status"] == "pass" for c in report["checks"]), ("not all pass", run, report["checks"])
            assert report["fingerprint"] == fingerprint(report, order), ("fingerprint", run)
            assert entra_tenant(tenant) in json.dumps(report["identity"]), ("identity", run, report["identity"])
            size = len(json.dumps(report, separators=(",", ":")))
        return size

    harness.verify = lambda sv, n: (verify_candidate if sv.db is sv.own else verify)(sv, n)


# ---------------------------------------------------------------- looking closer
STATEMENTS = """
SELECT calls, round(total_exec_time::numeric, 1), round((total_exec_time / calls * 1000)::numeric, 1),
       round(rows::numeric / calls, 2), round(shared_blks_hit::numeric / calls, 1),
       wal_bytes, regexp_replace(query, '\\s+', ' ', 'g')
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()
ORDER BY total_exec_time DESC LIMIT 25"""


def patch_observation(options):
    """pg_stat_statements and perf, while the candidate drains. Both cost time: not for figures."""
    worker, drain = harness.Worker, harness.drain
    number, seen = [0], []

    class Watched(worker):
        def __init__(self, sv, name, *args, **kwargs):
            if name == CANDIDATE and options.statements:
                sv.own.execute("SELECT pg_stat_statements_reset()")
            super().__init__(sv, name, *args, **kwargs)
            self.perf = None
            self.statements_of = sv if name == CANDIDATE and options.statements else None
            if name == CANDIDATE and options.perf:
                number[0] += 1
                self.data = os.path.join(options.perf, f"perf-{number[0]}.data")
                self.perf = subprocess.Popen(
                    ["perf", "record", "-q", "-F", "499", "-g", *options.perf_args, "-p", str(self.p.pid),
                     "-o", self.data], stdout=self.log, stderr=self.log)

        def stop(self):
            if self.perf:
                self.perf.send_signal(signal.SIGINT)
                self.perf.wait()
            super().stop()
            if self.statements_of is not None:  # before the harness's own checks add theirs
                seen[:] = self.statements_of.own.execute(STATEMENTS).fetchall()
            if self.perf:
                with open(self.data + ".txt", "wb") as out:
                    subprocess.run(["perf", "report", "-i", self.data, "--stdio", "--no-children", "-g", "none",
                                    "--percent-limit", "0.3"], stdout=out, stderr=subprocess.DEVNULL, check=False)
                harness.log("profile in", self.data + ".txt")

    def drained(sv, name, n, *args, **kwargs):
        result = drain(sv, name, n, *args, **kwargs)
        if name == CANDIDATE and options.statements:
            print(f"\n### Statements of {n} runs\n\n| calls / run | ms in all | µs each | rows each | buffers each "
                  "| WAL bytes / run | statement |\n|---|---|---|---|---|---|---|")
            for calls, total, each, count, hit, wal, query in seen:
                print(f"| {calls / n:.3f} | {total} | {each} | {count} | {hit} | {wal / n:.0f} | `{query[:160]}` |")
            print(flush=True)
        return result
    harness.Worker, harness.drain = Watched, drained


# ---------------------------------------------------------------- tables
def first_line(*cmd):
    try:
        return subprocess.run(cmd, capture_output=True, text=True, check=False).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "?"


def patch_tables(options, given):
    tables = harness.tables

    def with_heading(res):
        text = tables(res)
        if options.table:
            when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
            with open(options.table, "w", encoding="utf-8") as out:
                out.write(f"{when}, {os.cpu_count()} cores, {first_line(harness.pgbin('postgres'), '--version')}, "
                          f"{first_line('redis-server', '--version').split(' sha')[0]}, "
                          f"Python {platform.python_version()}, {first_line('rustc', '--version')}; "
                          f"`bench/peers/run {shlex.join(given)}`\n{text}")
        return text
    harness.tables = with_heading


def main():
    given = sys.argv[1:]
    ap = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ap.add_argument("--table", metavar="FILE.md", help="write the tables there, too")
    ap.add_argument("--no-guards", action="store_true", help="no guards and no index on the runs, for comparison")
    ap.add_argument("--statements", action="store_true", help="print what pg_stat_statements saw of each drain")
    ap.add_argument("--perf", metavar="FOLDER", help="a CPU profile of verifyd in each measurement, by perf record")
    ap.add_argument("--perf-args", type=shlex.split, default=[], help="further arguments, such as '--call-graph dwarf'")
    ap.add_argument("--keep-log", metavar="FILE", help="copy verifyd's log there")
    ap.add_argument("--fresh-credentials", action="store_true", help="seal the credentials again, with a new key")
    options, rest = ap.parse_known_args(given)
    if {"-h", "--help"} & set(rest):
        ap.print_help()
        print("\nAll other arguments are the harness's:\n")
    if options.perf:
        os.makedirs(options.perf, exist_ok=True)

    patch_provider()
    patch_database(options)
    patch_verify()
    patch_observation(options)
    patch_tables(options, given)

    # The key, and the credentials that prepare.py seals with it: kept from one invocation to the next.
    state = os.path.join(harness.CACHE, "verifyd")
    if options.fresh_credentials:
        shutil.rmtree(state, ignore_errors=True)
    os.makedirs(state, mode=0o700, exist_ok=True)
    keys = os.path.join(state, "keys")
    if not os.path.exists(keys):
        with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write(f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    os.environ["VERIFYD_BENCH_KEYS"] = keys
    os.environ["VERIFYD_BENCH_GUARDS"] = "off" if options.no_guards else "on"
    os.environ.setdefault("VERIFYD_BENCH_HTTP_PORT", str(harness.HTTP_PORT + 4))

    if options.keep_log:
        stop = harness.Services.stop

        def stopped(self):
            log = os.path.join(self.run, CANDIDATE + ".log")
            if os.path.exists(log):
                shutil.copy(log, options.keep_log)
            stop(self)
        harness.Services.stop = stopped
    harness.main({
        "worker": [os.path.join(HERE, "candidate")], "enq": [os.environ["VERIFYD_BENCH_ENQUEUE"]],
        "setup": [sys.executable, os.path.join(HERE, "prepare.py")], "na": 20000, "nb": 10000,
    }, rest)


if __name__ == "__main__":
    main()
