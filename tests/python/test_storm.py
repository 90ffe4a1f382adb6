"""A server whose bucket misbehaves: delays, refusals, lost answers, cut bodies and an outage, under a model (issue 4, Shows 4).

A short form by default; PROXIMADB_STORM_MINUTES=30 for the long one.
"""

import http.client
import os
import random
import threading
import time

from conftest import send, until
from test_lifecycle import ABSENT, assert_stored, schema, vector

MINUTES = float(os.environ.get("PROXIMADB_STORM_MINUTES", "0"))
STORM_SECONDS, OUTAGE_SECONDS = (MINUTES * 60, 60) if MINUTES else (8, 2)
WRITERS = 6
IDS_PER_WRITER = 60
MEMORY_MB_MAX = 1024


def storm(seconds):
    """Rules of the proxy: latency 0 to 2 s, 5 % 503, 2 % dropped after the server applied, 2 % cut bodies."""
    return [
        {"action": "latency", "ms": 0, "jitter": seconds * 1000},
        {"action": "status", "status": 503, "probability": 0.05},
        {"action": "drop-after", "probability": 0.02},
        {"action": "truncate-response", "method": "GET", "probability": 0.02},
    ]


class Writer(threading.Thread):
    """Writes points of its own ids whatever is answered; a change that was not acknowledged stays in doubt."""

    def __init__(self, server, names, model, number, seed):
        super().__init__(daemon=True)
        self.server, self.names, self.model, self.number = server, names, model, number
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.acknowledged, self.refused, self.wrong = 0, 0, []

    def run(self):
        while not self.stopping.is_set():
            name = self.random.choice(self.names)
            ids = self.random.sample(range(self.number * IDS_PER_WRITER, (self.number + 1) * IDS_PER_WRITER), 10)
            if self.random.random() < 0.2:
                change = {i: ABSENT for i in ids}
                request = ("POST", f"/collections/{name}/points/delete?wait=true", {"points": ids})
            else:
                change = {i: self.random.randrange(1 << 20) for i in ids}
                points = [{"id": i, "vector": vector(s), "payload": {"stamp": s}} for i, s in change.items()]
                request = ("PUT", f"/collections/{name}/points?wait=true", {"points": points})
            for i, state in change.items():
                self.model[name][i] = self.model[name].get(i, {ABSENT}) | {state}
            if self.acknowledges(*request):
                for i, state in change.items():
                    self.model[name][i] = {state}

    def acknowledges(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
        try:
            status, answer = send(connection, method, path, body)
        finally:
            connection.close()
        if status == 200:
            self.acknowledged += 1
            return True
        self.refused += 1
        if status not in (429, 503):
            self.wrong.append((path, status, answer))
        # Whoever is refused comes back a little later.
        time.sleep(0.1)
        return False


def memory_mb(server):
    """The most memory that the server had so far."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def test_a_storm_in_front_of_the_bucket_loses_nothing_and_doubles_nothing_and_writes_resume(servers, stores, faults):
    seed = int(os.environ.get("PROXIMADB_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"PROXIMADB_SEED={seed}")
    proxy = faults(stores("s3"))
    keys = {"wal": {"memory_flush_size_bytes": 65536}}
    server = servers(roots=2, kinds=["s3"], endpoints={"s3": proxy.endpoint}, keys=keys).start()
    names = ["viper", "lsm"]
    model = {name: {} for name in names}
    for name in names:
        server.ok("PUT", f"/collections/{name}", schema(name))
    writers = [Writer(server, names, model, n, seed + n) for n in range(WRITERS)]

    def acknowledged():
        return sum(writer.acknowledged for writer in writers)

    for writer in writers:
        writer.start()
    until(acknowledged, "a write before the storm")
    proxy.set(*storm(2 if MINUTES else 0.5))
    time.sleep(STORM_SECONDS / 2)
    hits = {rule["action"]: rule["hit"] for rule in proxy.rules()}
    proxy.set({"action": "drop-before"})
    time.sleep(OUTAGE_SECONDS)
    proxy.set(*storm(2 if MINUTES else 0.5))
    time.sleep(STORM_SECONDS / 2)
    proxy.set()
    before = acknowledged()
    until(lambda: acknowledged() > before, "a write after the storm", 180)
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(timeout=300)
        assert not writer.is_alive(), "a writer is stuck"
    print(f"{acknowledged()} writes, {sum(w.refused for w in writers)} refused, faults of the first half {hits}, {memory_mb(server)} MB")
    assert [wrong for writer in writers for wrong in writer.wrong] == []
    assert memory_mb(server) < MEMORY_MB_MAX
    until(lambda: all(root["state"] == "online" for root in server.ok("GET", "/storage/roots")["roots"]), "all roots", 180)
    assert_stored(server, model)
    server.kill()
    server.start()
    assert_stored(server, model)
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout
