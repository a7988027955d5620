"""The servers, and processes of verifyd beside them."""

import json
import os
import secrets
import base64
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
import uuid

ROLE = "growth"  # as which verifyd works, so that its statements are told from the measurement's
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


class Db:
    """A session of psql. Values must hold neither tabs nor line ends."""

    def __init__(self, url):
        folder = os.environ["VERIFYD_TEST_PG_BIN"]
        psql = os.path.join(folder, "psql")
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [psql if os.path.exists(psql) else "psql", "-X", "-q", "-A", "-t", "-F", "\t",
             "-v", "ON_ERROR_STOP=1", url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        # Whoever sends a hint says so (docs/guides/notifications.md).
        self.rows("SET verifyd.told = 'on'; SET client_min_messages = warning")

    def rows(self, sql):
        end = "end " + uuid.uuid4().hex
        try:
            self.process.stdin.write(f"{sql};\nSELECT '{end}';\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail(sql)
        found = []
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.fail(sql)
            if line.rstrip("\n") == end:
                return found
            found.append(line.rstrip("\n").split("\t"))

    def fail(self, sql):
        self.process.wait()
        self.errors.seek(0)
        raise RuntimeError(f"{self.errors.read()}\n{sql[:2000]}")

    def value(self, sql):
        return self.rows(sql)[0][0]

    def number(self, sql):
        return float(self.value(sql) or 0)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


class Redis:
    """As much of its protocol as is needed."""

    def __init__(self, url):
        at = urllib.parse.urlparse(url)
        self.socket = socket.create_connection((at.hostname, at.port))
        self.reader = self.socket.makefile("rb")

    def pipeline(self, commands):
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            for word in command:
                word = word if isinstance(word, bytes) else str(word).encode()
                parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))
        return [self.answer() for _ in commands]

    def answer(self):
        line = self.reader.readline()
        kind, rest = line[:1], line[1:].rstrip(b"\r\n")
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            return self.reader.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest

    def call(self, *command):
        return self.pipeline([command])[0]

    def memory(self):
        text = self.call("INFO", "memory").decode()
        return int(next(line for line in text.splitlines() if line.startswith("used_memory:")).split(":")[1])


def stat(pid):
    """User and system time of a process, and those of its children that have ended, in seconds; its
    parent."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split(" ")
    own, ended = (int(fields[11]) + int(fields[12])), (int(fields[13]) + int(fields[14]))
    return own / TICKS, ended / TICKS, int(fields[1])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Place:
    """What all measurements share."""

    def __init__(self, folder, binary):
        self.folder, self.binary = folder, binary
        self.server = os.environ["VERIFYD_TEST_DATABASE_URL"]
        self.redis_url = os.environ["VERIFYD_TEST_REDIS_URL"]
        self.redis = Redis(self.redis_url)
        with open(os.path.join(ROOT, "contracts", "enqueue.lua"), "rb") as file:
            self.script = self.redis.call("SCRIPT", "LOAD", file.read())
        self.admin = Db(self.server)
        self.admin.rows(f"CREATE ROLE {ROLE} SUPERUSER LOGIN")
        self.postmaster = stat(int(self.admin.value("SELECT pg_backend_pid()")))[2]
        self.keys = os.path.join(folder, "keys")
        with open(os.open(self.keys, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write(f"growth:{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        self.simulators = {}
        self.processes = []
        self.started = 0

    def url(self, database, role="postgres"):
        at = urllib.parse.urlparse(self.server)
        return f"postgres://{role}@{at.hostname}:{at.port}/{database}"

    def make(self, database, template="template0"):
        self.admin.rows(f"CREATE DATABASE {database} TEMPLATE {template}")
        return Db(self.url(database))

    def drop(self, database):
        self.admin.rows(f"DROP DATABASE {database} WITH (FORCE)")

    def postgres_cpu(self):
        """All of its processes, also those that have ended."""
        own, ended, _ = stat(self.postmaster)
        total = own + ended
        with open(f"/proc/{self.postmaster}/task/{self.postmaster}/children", encoding="ascii") as file:
            for child in file.read().split():
                try:
                    total += stat(child)[0]
                except FileNotFoundError:
                    pass
        return total

    def log_of_postgres(self):
        data = self.admin.value("SHOW data_directory")
        return os.path.join(os.path.dirname(os.path.dirname(data)), "postgres.log")

    def simulator(self, latency="0ms"):
        """Its address; one process for each latency."""
        if latency not in self.simulators:
            process = subprocess.Popen([self.binary, "simulate", "--port", "0", "--latency", latency],
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.processes.append(process)
            self.simulators[latency] = process.stdout.readline().strip()
        return self.simulators[latency]

    def environment(self, database, latency="0ms", **settings):
        address = self.simulator(latency)
        env = {k: v for k, v in os.environ.items() if not k.startswith("VERIFYD__")}
        env.update({
            "DATABASE_URL": self.url(database, ROLE), "REDIS_URL": self.redis_url,
            "VERIFYD__REDIS__QUEUE": database,
            "VERIFYD__CREDENTIALS__KEYS_FILE": self.keys,
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN": address,
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH": address,
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__PORTAL": "https://portal.example.com",
            "VERIFYD__LOG__FORMAT": "json",
            **{"VERIFYD__" + key: str(value) for key, value in settings.items()},
        })
        return env

    def verifyd(self, database, *arguments, stdin=None):
        done = subprocess.run([self.binary, *arguments], env=self.environment(database), input=stdin,
                              text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"verifyd {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def serve(self, database, latency="0ms", **settings):
        return Worker(self, database, latency, settings)

    def send(self, queue, runs, redis=None):
        """A hint for each, by the script of contracts/. A thread has a connection of its own."""
        keys = [f"{queue}:{part}" for part in ("data", "active", "signal", "meta")]
        for start in range(0, len(runs), 1000):
            (redis or self.redis).pipeline([
                ("EVALSHA", self.script, len(keys), *keys, str(uuid.uuid4()),
                 json.dumps({"v": 1, "operation_run_id": int(run)}), 1)
                for run in runs[start:start + 1000]])

    def waiting(self, queue):
        return self.redis.call("LLEN", f"{queue}:active")

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait()


class Worker:
    """`verifyd serve`."""

    def __init__(self, place, database, latency, settings):
        self.port = free_port()
        place.started += 1
        self.log = os.path.join(place.folder, f"serve-{place.started}.log")
        env = place.environment(database, latency, HTTP__LISTEN=f"127.0.0.1:{self.port}", **settings)
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([place.binary, "serve"], env=env, stdout=out, stderr=out)
        place.processes.append(self.process)

    def cpu(self):
        return stat(self.process.pid)[0]

    def resident(self):
        """Bytes of memory."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def get(self, path, headers=None, data=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {}, data=data)
        opener = urllib.request.build_opener(NoRedirect)
        try:
            with opener.open(request, timeout=120) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ready(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self.alive()
            try:
                if self.get("/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"not ready in a minute: {self.log}")

    def alive(self):
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"verifyd serve has ended: {file.read()[-2000:]}")

    def metrics(self):
        """Sums over labels, by name."""
        found = {}
        for line in self.get("/metrics")[2].decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def stop(self):
        """CPU seconds that it has used."""
        self.alive()
        used = self.cpu()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=90) != 0:
            raise RuntimeError(f"verifyd serve ended with {self.process.returncode}: {self.log}")
        return used


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None
