"""A day of very many connections, each checked once, in as little time as the machine takes for it."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import threading
import time

import data
import history
from place import Db, Redis, log
from tables import number, ratio, table

CONNECTIONS = 1_000_000
NAME = "day"
DAYS = ("first", "second")
# Waiting at a time: enough for a worker never to wait, as few as in a day that is evenly spread.
WAITING = 2_000
SECONDS_OF_A_DAY = 86_400
TABLES = ("operation_runs", "tenant_permissions", "provider_connections", "provider_credentials",
          "verifyd.run_attempts", "verifyd.latest_reports", "verifyd.tenant_inventory")


def laravel_payload(key, text):
    """What Laravel's `Crypt::encryptString()` makes of a text. It is bound to no row, so that one is made
    for all connections."""
    iv = secrets.token_bytes(16)
    value = subprocess.run(["openssl", "enc", "-aes-256-cbc", "-K", key.hex(), "-iv", iv.hex()],
                           input=text.encode(), capture_output=True, check=True).stdout
    iv, value = base64.b64encode(iv), base64.b64encode(value)
    mac = hmac.new(key, iv + value, hashlib.sha256).hexdigest()
    payload = {"iv": iv.decode(), "value": value.decode(), "mac": mac, "tag": ""}
    return base64.b64encode(json.dumps(payload).encode()).decode()


def prepare(place, options, _base, _connections):
    count = max(1_000, int(CONNECTIONS * options.scale))
    log(f"a day of {count:,} connections")
    key = secrets.token_bytes(32)
    db = place.make(NAME)
    place.verifyd(NAME, "migrate")
    db.rows("CREATE EXTENSION pg_stat_statements")
    data.connect(db, count)
    db.rows(f"""
        INSERT INTO provider_credentials (provider_connection_id, kind, payload)
        SELECT id, 'client_secret', '{laravel_payload(key, data.SECRET)}' FROM provider_connections""")
    db.rows("VACUUM ANALYZE")
    return db, count, {"CREDENTIALS__LARAVEL_KEYS": "base64:" + base64.b64encode(key).decode()}


class Producer(threading.Thread):
    """Records runs of a day's connections, as fast as they are taken."""

    def __init__(self, place, count):
        super().__init__(daemon=True)
        self.place, self.count = place, count
        self.redis, self.db = Redis(place.redis_url), Db(place.url(NAME))
        self.recorded, self.redis_bytes, self.error = 0, 0, None

    def run(self):
        try:
            while self.recorded < self.count:
                if self.redis.call("LLEN", f"{NAME}:active") >= WAITING:
                    time.sleep(0.005)
                    continue
                more = min(500, self.count - self.recorded)
                self.place.send(NAME, data.record(self.db, more, self.count, self.recorded), self.redis)
                self.recorded += more
                self.redis_bytes = max(self.redis_bytes, self.redis.memory())
        except Exception as error:  # told by the one who waits
            self.error = error
        finally:
            self.db.close()


class Day:
    """What a day has cost: seconds, bytes."""


def sizes(db):
    # Its indexes and what is stored apart, and of all partitions where it has any.
    return {name: db.number(f"SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('{name}')")
            or db.number(f"SELECT pg_total_relation_size('{name}')") for name in TABLES}


def live(place, db, count, settings):
    """One day."""
    day = Day()
    before = db.number("SELECT coalesce(max(id), 0) FROM operation_runs")
    sized, position = sizes(db), db.value("SELECT pg_current_wal_lsn()")
    postgres, vacuums = place.postgres_cpu(), autovacuums(db)
    worker = place.serve(NAME, **settings).ready()
    began = time.monotonic()
    producer = Producer(place, count)
    producer.start()
    day.memory, told = 0, 0
    while producer.is_alive():
        worker.alive()
        day.memory = max(day.memory, worker.resident())
        if producer.recorded - told >= count // 10:
            told = producer.recorded
            log(f"  {told:,} recorded, {told / (time.monotonic() - began):,.0f}/s")
        time.sleep(0.5)
    if producer.error:
        raise producer.error
    data.settled(place, db, NAME, worker)
    day.seconds = time.monotonic() - began
    day.worker = worker.stop()
    day.postgres = place.postgres_cpu() - postgres
    day.wal = db.number(f"SELECT pg_current_wal_lsn() - '{position}'::pg_lsn")
    day.grown = {name: size - sized[name] for name, size in sizes(db).items()}
    day.vacuums = autovacuums(db) - vacuums
    day.redis = producer.redis_bytes
    done, day.p99, day.longest = db.rows(f"""
        SELECT count(*) FILTER (WHERE status = 'completed'),
               extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY completed_at - created_at)),
               extract(epoch FROM max(completed_at - created_at))
        FROM operation_runs WHERE id > {before:.0f}""")[0]
    if int(done) != count:
        raise RuntimeError(f"{done} of {count} runs were completed")
    return day


def autovacuums(db):
    return db.number("SELECT sum(autovacuum_count + autoanalyze_count) FROM pg_stat_user_tables")


def measure(place, options, places, _connections):
    db, count, settings = places
    days = []
    for which in DAYS:
        days.append(live(place, db, count, settings))
        log(f"{which} day: {days[-1].seconds:,.0f} s, {count / days[-1].seconds:,.0f} runs/s")
    first, second = days

    def line(what, of, digits=0):
        values = [float(of(day)) for day in days]
        return [what] + [number(v, digits) for v in values] + [ratio(values[1], values[0])]
    rows = [
        line("seconds that the day's checks took", lambda d: d.seconds),
        line("runs/s", lambda d: count / d.seconds),
        line("worker's CPU, seconds", lambda d: d.worker),
        line("PostgreSQL's CPU, seconds, the producer's included", lambda d: d.postgres),
        line("both, share of one core over 24 hours, %",
             lambda d: (d.worker + d.postgres) / SECONDS_OF_A_DAY * 100, 1),
        line("worker's memory at most, MiB", lambda d: d.memory / 2**20),
        line("Redis' memory at most, MiB", lambda d: d.redis / 2**20, 1),
        line("write-ahead log, GB", lambda d: d.wal / 1e9, 1),
        line("from recording to completion, p99, s", lambda d: d.p99, 2),
        line("… at most, s", lambda d: d.longest, 2),
        line("autovacuum's and autoanalyze's turns", lambda d: d.vacuums),
    ]
    rows += [line(f"`{name}` grows by, MB", lambda d, n=name: d.grown[n] / 1e6) for name in TABLES]
    text = table([f"{count:,} connections", *(f"{which} day" for which in DAYS), "second ÷ first"], rows)
    asked = history.requests(place, db, NAME, count, options.requests, **settings)
    text += "\n\n" + table(["afterwards", "µs of PostgreSQL", "ms until the answer"],
                           [[what, number(us), number(ms, 1)] for (what, _, _), (us, ms) in asked.items()])
    db.close()
    if not options.keep:
        place.drop(NAME)
    return text
