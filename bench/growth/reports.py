"""How the cost grows with the checks of a report.

What a module checks is fixed in the program, so no setting makes a report of a hundred checks. The
reports are those of the micro-benchmark (benches/micro), which measures what they cost the worker. Here
they are written into a database by the very statement that completes runs.
"""

import json
import os
import statistics
import subprocess

import data
from drain import drain
from place import ROLE, ROOT, Db, log
from statements import Plans, one_line, reset
from tables import number, ratio, table

CHECKS = (10, 25, 50, 100)
BATCH = 64
# As a batch of completions sets it: together/mod.rs.
SETTINGS = ("SET LOCAL enable_seqscan = off; SET LOCAL jit = off; "
            "SET LOCAL plan_cache_mode = force_generic_plan")


def micro(place):
    """Medians in microseconds by name, and the reports."""
    folder = os.path.join(place.folder, "reports")
    os.makedirs(folder, exist_ok=True)
    log("micro-benchmark")
    home = os.path.join(place.folder, "criterion")
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    built = os.environ.get("VERIFYD_BENCH_MICRO")
    command = [built, "--bench"] if built else [os.path.join(ROOT, "bench", "micro")]
    if not built:
        home = os.path.join(target, "criterion")
    done = subprocess.run([*command, "report/"], check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          env={**os.environ, "VERIFYD_MICRO_REPORTS": folder, "CRITERION_HOME": home})
    if done.returncode != 0:
        raise RuntimeError(f"the micro-benchmark failed: {done.stdout[-3000:]}")
    times = {}
    for what in ("finish", "fingerprint", "validate"):
        for checks in CHECKS:
            file = os.path.join(home, f"report_{what}_{checks}", "new", "estimates.json")
            with open(file, encoding="utf-8") as estimates:
                times[what, checks] = json.load(estimates)["median"]["point_estimate"] / 1000
    reports = {}
    for checks in CHECKS:
        with open(os.path.join(folder, f"{checks}.json"), encoding="utf-8") as file:
            reports[checks] = json.load(file)
    return times, reports


def text_of_completion(place, db, connections):
    with Plans(place, "reports") as seen:
        drain(place, db, "reports", 200, connections)
        return one_line(seen.found()["completion"][2])


def running(db, count, connections):
    """So many runs with an open attempt: id and token of each."""
    runs = data.record(db, count, connections)
    return db.rows(f"""
        WITH started AS (
            UPDATE operation_runs SET status = 'running', started_at = now()
            WHERE id BETWEEN {runs[0]} AND {runs[-1]} RETURNING id
        )
        INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
        SELECT id, 1, gen_random_uuid(), 'growth', true, now(), now() + interval '1 hour' FROM started
        RETURNING run_id, token""")


def complete(db, report, runs):
    """The statement as verifyd sends it, with the report in each run."""
    patch = json.dumps({"verification_report": report})
    failures = json.dumps([{"check": c["key"], "reason_code": c["reason_code"], "message": c["message"]}
                           for c in report["checks"] if c["status"] == "fail"])

    def array(kind, values):
        return f"ARRAY[{','.join(values)}]::{kind}[]"
    for start in range(0, len(runs), BATCH):
        batch = runs[start:start + BATCH]
        db.rows("BEGIN; " + SETTINGS + "; EXECUTE complete(" + ", ".join([
            array("bigint", [run for run, _ in batch]), array("int", ["1"] * len(batch)),
            array("uuid", [f"'{token}'" for _, token in batch]), array("text", ["'failed'"] * len(batch)),
            array("jsonb", [f"$json${patch}$json$"] * len(batch)),
            array("jsonb", [f"$json${failures}$json$"] * len(batch))]) + "); COMMIT")


def prepare(place, _options, base, _connections):
    return place.make("reports", base)


def measure(place, options, db, connections):
    times, reports = micro(place)
    text = text_of_completion(place, db, connections)
    # As verifyd, so that it is told from what is made ready here.
    writer = Db(place.url("reports", ROLE))
    writer.rows("PREPARE complete(bigint[], int[], uuid[], text[], jsonb[], jsonb[]) AS " + text)
    found = {checks: [] for checks in CHECKS}
    count = max(BATCH, int(BATCH * 16 * min(1, options.scale * 4)))
    for around in range(options.reps + 1):
        for checks in CHECKS:
            runs = running(db, count, connections)
            db.rows("CHECKPOINT")
            reset(db)
            complete(writer, reports[checks], runs)
            us, wal, rows = db.rows(
                "SELECT total_exec_time * 1000, wal_bytes, rows FROM pg_stat_statements "
                f"WHERE userid = '{ROLE}'::regrole AND query LIKE '%locked AS MATERIALIZED%' "
                "AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())")[0]
            if int(rows) != count:
                raise RuntimeError(f"{rows} of {count} runs were completed")
            stored = db.number("SELECT avg(pg_column_size(context)) FROM operation_runs "
                               f"WHERE id BETWEEN {runs[0][0]} AND {runs[-1][0]}")
            log(f"round {around}, {checks} checks: {float(us) / count:.0f} µs")
            if around:
                found[checks].append((float(us) / count, float(wal) / count, stored))
    writer.close()
    db.close()
    if not options.keep:
        place.drop("reports")

    def line(what, values, digits=0):
        return [what] + [number(v, digits) for v in values] + [
            ratio(values[-1], values[0]), number((values[-1] - values[0]) / (CHECKS[-1] - CHECKS[0]), 1)]

    def over(place_in):
        return [statistics.median(f[place_in] for f in found[checks]) for checks in CHECKS]
    sizes = [len(json.dumps(reports[checks], separators=(",", ":"))) for checks in CHECKS]
    return table(["checks"] + [str(c) for c in CHECKS] + ["100 ÷ 10", "for one more"], [
        line("from draft to report, µs of the worker", [times["finish", c] for c in CHECKS]),
        line("… fingerprint", [times["fingerprint", c] for c in CHECKS]),
        line("… validation", [times["validate", c] for c in CHECKS]),
        line("completion, µs of PostgreSQL", over(0)),
        line("report as JSON, bytes", sizes),
        line("`context` as stored, bytes", over(2)),
        line("write-ahead log of the completion, bytes", over(1)),
    ])
