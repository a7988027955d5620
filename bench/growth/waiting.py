"""How the cost grows with the runs that wait."""

import statistics
import threading
import time

import data
from drain import sweeps
from place import Db, Redis, log
from statements import Seen, reset
from tables import number, ratio, table

LEAST = 64


class Producer(threading.Thread):
    """Keeps so many hints waiting, a few at a time."""

    def __init__(self, place, name, length, connections):
        super().__init__(daemon=True)
        self.place, self.name, self.length, self.connections = place, name, length, connections
        self.redis = Redis(place.redis_url)
        self.db = Db(place.url(name))
        self.added, self.left, self.ended, self.error = 0, length, threading.Event(), None

    def run(self):
        try:
            while not self.ended.is_set():
                self.left = self.redis.call("LLEN", f"{self.name}:active")
                if self.left < self.length:
                    runs = data.record(self.db, min(LEAST, self.length - self.left), self.connections)
                    self.place.send(self.name, runs)
                    self.added += len(runs)
                else:
                    time.sleep(0.002)
        except Exception as error:  # told by taken()
            self.error = error

    def taken(self, before):
        """How many hints workers have taken since the queue was as long as `before`."""
        if self.error:
            raise self.error
        return before + self.added - self.left

    def close(self):
        self.ended.set()
        self.join()
        self.db.close()
        if self.error:
            raise self.error


class Round:
    """Of one round: rate, seconds of CPU per run, statements, cost of a sweep."""


def steady(place, db, name, length, connections, runs, seconds):
    found = Round()
    db.rows("CHECKPOINT")
    worker = place.serve(name).ready()
    before = place.waiting(name)
    producer = Producer(place, name, length, connections)
    producer.start()
    began_at = None
    try:
        # A tenth first, until tokens are known and the statements are planned.
        for until in (runs // 10, runs // 10 + runs):
            while producer.taken(before) < until:
                worker.alive()
                time.sleep(0.002)
            if began_at is None:
                reset(db)
                began_at, cpu, postgres, taken = time.monotonic(), worker.cpu(), place.postgres_cpu(), producer.taken(before)
        count = producer.taken(before) - taken
        found.rate = count / (time.monotonic() - began_at)
        found.worker = (worker.cpu() - cpu) / count * 1e6
        found.postgres = (place.postgres_cpu() - postgres) / count * 1e6
        found.seen, found.count = Seen(db), count
        worker.stop()
        # One run at a time and a provider that takes its time: the queue stays as long as it is.
        found.sweeps = sweeps(place, db, name, seconds, "2s", WORKER__CONCURRENCY=1)
    finally:
        producer.close()
    return found


def prepare(place, options, base, connections):
    """A database for each length of the queue: length, name, session, Redis' bytes per hint."""
    lengths = [LEAST] + [max(LEAST * (n + 2), int(length * options.scale))
                         for n, length in enumerate((10_000, 100_000))]
    places = []
    for length in lengths:
        name = f"queue_{length}"
        log(f"queue of {length:,}")
        db = place.make(name, base)
        # A sudden burst: statistics are of a time when nothing was queued, as they remain for long where the
        # table has a long history.
        for of in ("operation_runs", "verifyd.run_deliveries"):
            db.rows(f"ANALYZE {of}; ALTER TABLE {of} SET (autovacuum_enabled = off)")
        runs = data.record(db, length, connections)
        # A connection's buffers count, too: they grow with the first hints.
        place.send("warm_up", runs[:1000])
        place.redis.pipeline([("DEL", key) for key in place.redis.call("KEYS", "warm_up:*")])
        before = place.redis.memory()
        place.send(name, runs)
        each = (place.redis.memory() - before) / length
        places.append((length, name, db, each))
    return places


def measure(place, options, places, connections):
    lengths = [length for length, *_ in places]
    found = {length: [] for length in lengths}
    for around in range(options.reps + 1):
        for length, name, db, _ in places:
            one = steady(place, db, name, length, connections, options.runs, options.seconds)
            log(f"round {around}, queue {length:,}: {one.rate:,.0f} runs/s, sweep {one.sweeps[1]:,.0f} µs")
            if around:
                found[length].append(one)

    def over(of):
        return [statistics.median(of(one) for one in found[length]) for length in lengths]

    def line(what, values, digits=0):
        return [what] + [number(v, digits) for v in values] + [ratio(values[-1], values[0]),
                                                               ratio(values[-1], values[1])]
    rows = [
        line("claims/s, while as many are added", over(lambda o: o.rate)),
        line("worker's CPU, µs per run", over(lambda o: o.worker)),
        line("PostgreSQL's CPU, µs per run, the producer's included", over(lambda o: o.postgres)),
        line("claim, µs of PostgreSQL per run", over(lambda o: o.seen.of("claim") / o.count), 1),
        line("completion, µs of PostgreSQL per run", over(lambda o: o.seen.of("completion") / o.count), 1),
        line("all sweep's statements, µs per sweep", over(lambda o: o.sweeps[1])),
    ]
    for name in sorted({n for length in lengths for o in found[length] for n in o.sweeps[0]}):
        rows.append(line("… " + name.removeprefix("sweep: "), over(lambda o, n=name: o.sweeps[0].get(n, 0))))
    rows.append(line("Redis, bytes per hint", [each for *_, each in places]))
    for _, name, db, _ in places:
        db.close()
        if not options.keep:
            place.drop(name)
    head = ["waiting"] + [f"{length:,}" for length in lengths] + ["last ÷ first", "last ÷ middle"]
    return table(head, rows)
