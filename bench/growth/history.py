"""How the cost grows with the runs that are completed."""

import statistics
import time
import urllib.parse

import data
from drain import drain, sweeps
from place import log
from statements import Plans, Seen, reset
from tables import number, ratio, table

QUIET = data.WORKSPACES + 1

# What is asked of a worker by HTTP: name, path, workspace of the token.
REQUESTS = [
    ("latest report of a connection: `GET /v1/connections/7`", "/v1/connections/7", None),
    ("runs: `GET /v1/runs`", "/v1/runs", None),
    ("… `?status=queued`", "/v1/runs?status=queued", None),
    ("… `?outcome=failed` (1 of 50)", "/v1/runs?outcome=failed", None),
    ("… `?connection=7`", "/v1/runs?connection=7", None),
    ("… `?tenant=7`", "/v1/runs?tenant=7", None),
    ("… `?connection=` one not checked for long", "/v1/runs?connection=@QUIET@", None),
    ("… token of a workspace (1 of 20)", "/v1/runs", 3),
    ("… token of a workspace that has not checked for long", "/v1/runs", QUIET),
    ("one run: `GET /v1/runs/9`", "/v1/runs/9", None),
    ("metrics: `GET /metrics`", "/metrics", None),
    ("overview page: `GET /`", "/", None),
    ("… token of a workspace that has not checked for long", "/", QUIET),
]
# Statements of a drain and of the sweep whose plans are shown, in their order.
PLANS = ("claim", "starting point", "completion", "latest report", "inventory: freshness", "sweep: dead leases",
         "sweep: running without a lease", "sweep: due", "sweep: forget orphans")
BACKGROUND = ("sweep", "background", "transactions", "turns")


class Asking:
    """Requests to one worker, with tokens and logins."""

    def __init__(self, place, name, worker):
        self.place, self.name, self.worker = place, name, worker
        self.tokens, self.cookies = {}, {}

    def token(self, workspace):
        if workspace not in self.tokens:
            bound = ["--workspace", str(workspace)] if workspace else []
            self.tokens[workspace] = self.place.verifyd(
                self.name, "tokens", "create", "--name", "growth", "--scope", "read", *bound)
        return self.tokens[workspace]

    def cookie(self, workspace):
        if workspace not in self.cookies:
            status, headers, _ = self.worker.get(
                "/login", {"Origin": f"http://127.0.0.1:{self.worker.port}",
                           "Content-Type": "application/x-www-form-urlencoded"},
                urllib.parse.urlencode({"token": self.token(workspace), "next": "/"}).encode())
            if status not in (302, 303):
                raise RuntimeError(f"log in: {status}")
            self.cookies[workspace] = headers["Set-Cookie"].partition(";")[0]
        return self.cookies[workspace]

    def ask(self, path, workspace):
        if path.startswith("/v1"):
            headers = {"Authorization": f"Bearer {self.token(workspace)}"}
        else:
            headers = {"Cookie": self.cookie(workspace)}
        status, _, body = self.worker.get(path, headers)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {body[:300]}")


def requests(place, db, name, connections, times, **settings):
    """By request: microseconds of PostgreSQL, milliseconds until the answer."""
    worker = place.serve(name, HTTP__API__REQUESTS_PER_MINUTE=1000000, **settings).ready()
    asking = Asking(place, name, worker)
    found = {}
    for what, path, workspace in REQUESTS:
        path = path.replace("@QUIET@", str(connections))
        for _ in range(6):  # until the statement is planned as it will be
            asking.ask(path, workspace)
        reset(db)
        took = []
        for _ in range(times):
            began = time.monotonic()
            asking.ask(path, workspace)
            took.append((time.monotonic() - began) * 1000)
        seen = Seen(db)
        us = seen.all() - seen.of(*BACKGROUND)
        found[what, path, workspace] = (us / times, statistics.median(took))
    worker.stop()
    return found


def plans(place, db, name, connections, runs):
    """The plans of everything that was measured; of a request, that of its dearest statement."""
    with Plans(place, name) as seen:
        drain(place, db, name, runs, connections)
        sweeps(place, db, name, 2)
        found = {what: (ms, plan) for what, (ms, plan, _) in seen.found().items() if what in PLANS}
        found = {what: found[what] for what in PLANS if what in found}
        worker = place.serve(name, HTTP__API__REQUESTS_PER_MINUTE=1000000).ready()
        asking = Asking(place, name, worker)
        for what, path, workspace in REQUESTS:
            path = path.replace("@QUIET@", str(connections))
            for _ in range(6):
                asking.ask(path, workspace)
            seen.begin()
            asking.ask(path, workspace)
            dearest = max((ms, plan) for called, ms, plan, _ in seen.entries() if called[0] not in BACKGROUND)
            if dearest[1] not in [plan for _, plan in found.values()]:
                found[f"{path}, {what}"] = dearest
        worker.stop()
    return found


def prepare(place, options, base, connections):
    """A database for each length of the history: length, name, session, bytes of the runs."""
    places = []
    for size in (int(n * options.scale) for n in (0, 100_000, 1_000_000)):
        name = f"history_{size}"
        log(f"history of {size:,}")
        db = place.make(name, base)
        began = time.monotonic()
        data.fill(db, size, connections)
        width = db.number("SELECT pg_total_relation_size('operation_runs')")
        log(f"  {width / 1e6:,.0f} MB of operation_runs, {time.monotonic() - began:.0f} s")
        places.append((size, name, db, width))
    return places


def measure(place, options, places, connections):
    sizes = [size for size, *_ in places]
    drains = {size: [] for size in sizes}
    swept = {size: [] for size in sizes}
    asked = {size: [] for size in sizes}
    # The first drain warms up what was never read.
    for around in range(options.reps + 1):
        for size, name, db, _ in places:
            drained = drain(place, db, name, options.runs, connections)
            log(f"round {around}, history {size:,}: {drained.rate:,.0f} runs/s, PostgreSQL "
                f"{drained.us('claim'):.0f} + {drained.us('start'):.0f} + {drained.us('completion'):.0f} µs")
            if around:
                drains[size].append(drained)
                swept[size].append(sweeps(place, db, name, options.seconds))
                asked[size].append(requests(place, db, name, connections, options.requests))
    explained = plans(place, places[-1][2], places[-1][1], connections, max(200, options.runs // 10))
    text = render(sizes, places, drains, swept, asked)
    for _, name, db, _ in places:
        db.close()
        if not options.keep:
            place.drop(name)
    return text, explained


def render(sizes, places, drains, swept, asked):
    middle = statistics.median
    head = ["µs of PostgreSQL"] + [f"{size:,}" for size in sizes] + ["last ÷ first", "last ÷ middle"]

    def line(what, values, digits=1):
        return [what] + [number(v, digits) for v in values] + [ratio(values[-1], values[0]),
                                                               ratio(values[-1], values[1])]

    def over(of):
        return [middle(of(d) for d in drains[size]) for size in sizes]
    rows = [
        line("drain, runs/s", over(lambda d: d.rate), 0),
        line("PostgreSQL's CPU, µs per run", over(lambda d: d.postgres_ms * 1000), 0),
        line("worker's CPU, µs per run", over(lambda d: d.worker_ms * 1000), 0),
        line("claim, per run", over(lambda d: d.us("claim"))),
        line("starting point with latest report, per run", over(lambda d: d.us("start"))),
        line("completion, per run", over(lambda d: d.us("completion"))),
        line("all sweep's statements, per sweep", [middle(s[1] for s in swept[size]) for size in sizes], 0),
    ]
    for name in sorted({n for size in sizes for s in swept[size] for n in s[0]}):
        rows.append(line("… " + name.removeprefix("sweep: "),
                         [middle(s[0].get(name, 0) for s in swept[size]) for size in sizes], 0))
    text = table(head, rows)
    rows = []
    for key in asked[sizes[0]][0]:
        us = [middle(a[key][0] for a in asked[size]) for size in sizes]
        ms = [middle(a[key][1] for a in asked[size]) for size in sizes]
        rows.append(line(key[0], us, 0) + [" / ".join(number(m, 1) for m in ms)])
    text += "\n\n" + table(["µs of PostgreSQL per request"] + head[1:] + ["ms until the answer"], rows)
    sizes_on_disk = ", ".join(f"{width / 1e6:,.0f} MB" for _, _, _, width in places)
    return text + f"\n\n`operation_runs` with its indexes: {sizes_on_disk}."
