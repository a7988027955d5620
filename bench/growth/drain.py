"""Draining runs that wait, and what that costs."""

import time

import data
from statements import Seen, reset


class Drained:
    """Per run: seconds of CPU, microseconds of PostgreSQL by part of the statements."""

    def __init__(self, runs, rate, worker, postgres, seen, conflicts, batches):
        self.runs, self.rate, self.seen = runs, rate, seen
        self.worker_ms, self.postgres_ms = worker / runs * 1000, postgres / runs * 1000
        self.conflicts, self.batches = conflicts, batches

    def us(self, *parts):
        return self.seen.of(*parts) / self.runs


def drain(place, db, name, runs, connections, replicas=1, latency="0ms", **settings):
    """Records runs and their hints, then starts workers, and waits until all is done."""
    before = db.number("SELECT coalesce(max(id), 0) FROM operation_runs")
    place.send(name, data.record(db, runs, connections))
    place.simulator(latency)
    db.rows("CHECKPOINT")
    reset(db)
    postgres = place.postgres_cpu()
    workers = [place.serve(name, latency, **settings) for _ in range(replicas)]
    data.settled(place, db, name, *workers)
    postgres = place.postgres_cpu() - postgres
    seen = Seen(db)
    conflicts, batches = 0, {}
    for worker in workers:
        metrics = worker.metrics()
        conflicts += metrics.get("verifyd_hints_without_claim_total", 0)
        for part in ("sum", "count"):
            key = f"verifyd_database_batch_calls_{part}"
            batches[part] = batches.get(part, 0) + metrics.get(key, 0)
    worker = sum(w.stop() for w in workers)
    done, seconds = db.rows(
        "SELECT count(*), extract(epoch FROM max(completed_at) - min(started_at)) FROM operation_runs "
        f"WHERE id > {before:.0f} AND status = 'completed'")[0]
    if int(done) != runs:
        raise RuntimeError(f"{done} of {runs} runs were completed")
    return Drained(runs, runs / float(seconds), worker, postgres, seen, conflicts,
                   batches["sum"] / max(1, batches["count"]))


def sweeps(place, db, name, seconds=6, latency="0ms", **settings):
    """What the sweep's statements cost beside nothing else, by name, in microseconds per sweep. It sweeps
    more often than by default, so that a few seconds are enough."""
    settings = {"RECONCILER__INTERVAL": "100ms", **settings}
    worker = place.serve(name, latency, **settings).ready()
    time.sleep(1.5)  # until statements are planned as they will be
    reset(db)
    time.sleep(seconds)
    seen = Seen(db)
    worker.stop()
    count = seen.sweeps()
    if not count:
        raise RuntimeError("no sweep was seen: does statements.py know its statement?")
    by_name = {n: us / count for n, us in seen.us.items() if n.startswith("sweep")}
    return by_name, seen.of("sweep") / count
