"""What PostgreSQL says of verifyd's statements: their cost, and their plans."""

import re
import statistics

from place import ROLE

# By a part of the text, blanks as one, in which no constant stands; the first that fits counts.
LABELS = [
    ("claim", "claim", "WITH wanted AS ("),
    ("start", "starting point", "l.operation_run_id AS latest_run_id FROM provider_connections"),
    ("completion", "completion", "WITH locked AS MATERIALIZED"),
    ("claim", "claim: what is left over", "SELECT r.id FROM operation_runs r WHERE r.id = ANY($1)"),
    ("completion", "latest report", "INSERT INTO verifyd.latest_reports"),
    ("completion", "inventory: freshness", "INSERT INTO verifyd.tenant_inventory"),
    ("completion", "inventory: permissions", "WITH fresh AS ("),
    ("sweep", "sweep: only one at a time", "FROM verifyd.sweep_lock FOR UPDATE"),
    ("sweep", "sweep: dead leases", "SELECT a.run_id FROM verifyd.run_attempts a WHERE"),
    ("sweep", "sweep: running without a lease", "FOR NO KEY UPDATE OF r SKIP LOCKED"),
    ("sweep", "sweep: due", "undispatched_ahead AS MATERIALIZED"),
    ("sweep", "sweep: mark deliveries", "INSERT INTO verifyd.run_deliveries AS d"),
    ("sweep", "sweep: forget orphans", "DELETE FROM verifyd.run_deliveries WHERE run_id = ANY(ARRAY("),
    ("sweep", "sweep: forget workers", "DELETE FROM verifyd.workers WHERE beat_at"),
    ("turns", "turns", "WITH RECURSIVE waiting (tenant"),
    ("turns", "turns: whether they are indexed", "pg_get_expr(i.indpred, i.indrelid)"),
    ("background", "undeliver", "UPDATE verifyd.run_deliveries SET delivered_at = NULL"),
    ("background", "own open attempts", "SELECT run_id, token"),
    ("background", "heartbeat", "INSERT INTO verifyd.workers"),
    ("background", "announcement", "pg_notify"),
    ("background", "webhooks", "verifyd.webhook_"),
    ("request", "counts by status", "AS oldest_queued_seconds FROM ("),
    ("request", "list of runs", "r.completed_at::timestamptz AS completed_at FROM operation_runs r WHERE r.type"),
    ("request", "states of connections", "WITH active AS MATERIALIZED"),
    ("request", "counts of connections", "AS never_checked FROM provider_connections"),
    ("request", "overview: end of the table", "SELECT now() AS now, max(id) AS newest"),
    ("request", "overview: completed runs", "SELECT r.outcome, r.created_at::timestamptz AS created_at"),
    ("request", "overview: longest waiting", "AS waiting_seconds FROM ("),
    ("request", "trend", "WITH RECURSIVE chain AS ("),
    ("request", "one run", "r.completed_at::timestamptz AS completed_at FROM operation_runs r WHERE r.id"),
    ("transactions", "transactions", None),
]
BEGINS = re.compile(r"^(BEGIN|COMMIT|ROLLBACK|SET|START|SAVEPOINT|RELEASE)\b")


def one_line(text):
    return re.sub(r"\s+", " ", text).strip()


def label(text):
    """(part, name) of a statement."""
    text = one_line(text)
    if BEGINS.match(text):
        return "transactions", "transactions"
    for part, name, fragment in LABELS:
        if fragment and fragment in text:
            return part, name
    return "other", text[:100]


def reset(db):
    db.rows("SELECT pg_stat_statements_reset(0, (SELECT oid FROM pg_database "
            "WHERE datname = current_database()), 0)")


class Seen:
    """What pg_stat_statements saw of verifyd since the last reset."""

    def __init__(self, db):
        self.calls, self.us, self.part_us, self.part_calls, self.read = {}, {}, {}, {}, {}
        for calls, ms, blocks, read, text in db.rows(
                "SELECT calls, total_exec_time, shared_blks_hit + shared_blks_read, shared_blks_read, "
                "regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements s "
                f"WHERE userid = '{ROLE}'::regrole "
                "AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"):
            part, name = label(text)
            us = float(ms) * 1000
            self.calls[name] = self.calls.get(name, 0) + int(calls)
            self.us[name] = self.us.get(name, 0) + us
            self.part_us[part] = self.part_us.get(part, 0) + us
            self.part_calls[part] = self.part_calls.get(part, 0) + int(calls)

    def of(self, *parts):
        return sum(self.part_us.get(part, 0) for part in parts)

    def all(self):
        return sum(self.us.values())

    def sweeps(self):
        return self.calls.get("sweep: due", 0)


# ---------------------------------------------------------------- plans
class Plans:
    """auto_explain writes every plan of a database into the server's log, with what it really took."""

    SETTINGS = {"log_min_duration": 0, "log_analyze": "on", "log_buffers": "on", "log_timing": "on",
                "log_triggers": "on", "log_nested_statements": "off"}

    def __init__(self, place, database):
        self.place, self.database = place, database

    def __enter__(self):
        sql = [f"ALTER DATABASE {self.database} SET session_preload_libraries = 'auto_explain'"]
        sql += [f"ALTER DATABASE {self.database} SET auto_explain.{k} = '{v}'" for k, v in self.SETTINGS.items()]
        self.place.admin.rows("LOAD 'auto_explain'")
        self.place.admin.rows(";\n".join(sql))
        self.begin()
        return self

    def __exit__(self, *_):
        self.place.admin.rows(f"ALTER DATABASE {self.database} RESET ALL")

    def begin(self):
        """Forgets what was logged until now."""
        with open(self.place.log_of_postgres(), "rb") as file:
            self.start = file.seek(0, 2)

    def entries(self):
        """((part, name), ms, plan, text) of each statement that was logged."""
        with open(self.place.log_of_postgres(), "rb") as file:
            file.seek(self.start)
            text = file.read().decode(errors="replace")
        found = []
        for entry in re.split(r"^(?=\d{4}-\d\d-\d\d )", text, flags=re.M):
            # verifyd's statements are one line each.
            match = re.search(r"duration: ([0-9.]+) ms  plan:\n\tQuery Text: ([^\n]*)\n(\t.*)", entry, flags=re.S)
            if match:
                plan = "\n".join(line.removeprefix("\t") for line in match[3].rstrip().split("\n"))
                found.append((label(match[2]), float(match[1]), shorter(plan), match[2]))
        return found

    def found(self):
        """Of each statement, the plan of the median duration among the later half of those that found
        something (of all, where none did), and its text."""
        by_name = {}
        for (_, name), ms, plan, query in self.entries():
            by_name.setdefault(name, []).append((ms, plan, query))
        chosen = {}
        for name, plans in by_name.items():
            plans = [p for p in plans if " rows=0 " not in p[1].partition("\n")[0]] or plans
            later = plans[len(plans) // 2:]
            at = statistics.median_low([p[0] for p in later])
            chosen[name] = next(p for p in later if p[0] == at)
        return chosen


def shorter(plan):
    """Without estimates, and without what is as long as a report."""
    plan = re.sub(r"  \(cost=[^)]*\)", "", plan)
    plan = re.sub(r"'[^'\n]{120,}'", "'…'", plan)
    return "\n".join(line if len(line) <= 220 else line[:219] + "…" for line in plan.split("\n"))
