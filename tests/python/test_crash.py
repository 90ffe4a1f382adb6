"""kill -9 at random moments under eight writers; a model says what must be there (issue 2, Shows 3; F5, F12, G8)."""

import http.client
import os
import random
import threading

import pytest

from bucket_log import LogServer
from buckets import KINDS
from conftest import send, until

ROUNDS = int(os.environ.get("PROXIMADB_CRASH_ROUNDS", "50"))
WRITERS = 8
IDS_PER_WRITER = 300
DIM = 16
ABSENT = None


class Writer(threading.Thread):
    """Writes points of its own id range and keeps, per id, the last acknowledged state and the one that may be in doubt."""

    def __init__(self, server, number, model, seed):
        super().__init__(daemon=True)
        self.server, self.number, self.model = server, number, model
        self.random = random.Random(seed)
        self.acknowledged = 0
        self.refused = None

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while True:
            ids = self.random.sample(range(self.number * IDS_PER_WRITER, (self.number + 1) * IDS_PER_WRITER), 12)
            if self.random.random() < 0.3:
                change = {i: ABSENT for i in ids}
                path, body = "delete", {"points": ids}
                method = "POST"
            else:
                stamp = self.random.randrange(1 << 20)
                change = {i: stamp + i for i in ids}
                body = {"points": [{"id": i, "vector": vector(stamp + i), "payload": {"stamp": stamp + i}} for i in ids]}
                path, method = "", "PUT"
            for i, state in change.items():
                self.model[i] = (self.model.get(i, (ABSENT, ABSENT))[0], state)
            try:
                status, answer = send(connection, method, f"/collections/c/points{'/' + path if path else ''}?wait=true", body)
            except (OSError, http.client.HTTPException):
                return  # killed: the last change stays in doubt
            if status != 200:
                # A bucket may be slow to answer on a busy machine: the change stays in doubt.
                if status != 503 or not self.server.stores:
                    self.refused = answer
                return
            for i, state in change.items():
                self.model[i] = (state, state)
            self.acknowledged += 1


def vector(stamp):
    return [float((stamp * (n + 3)) % 8191) / 8 for n in range(DIM)]


def stored(server):
    points, offset = {}, None
    while True:
        body = {"limit": 1000, "with_payload": True, "with_vector": True, "offset": offset}
        page = server.ok("POST", "/collections/c/points/scroll", body)
        points.update({point["id"]: (point["payload"]["stamp"], point["vector"]) for point in page["points"]})
        offset = page["next_page_offset"]
        if offset is None:
            return points


def test_kill_9_loses_nothing_and_brings_nothing_back(servers):
    # A small flush size, so that kills fall into flushes, compactions and log releases as well.
    kill_again_and_again(servers(keys={"wal": {"memory_flush_size_bytes": 65536}}), ROUNDS)


@pytest.mark.parametrize("kind", KINDS)
def test_f13_kill_9_with_a_log_on_a_bucket_loses_nothing_and_brings_nothing_back(tmp_path, stores, kind):
    store = stores(kind)
    keys = {"wal": {"memory_flush_size_bytes": 65536}}
    server = LogServer(tmp_path / "db", [f"{store.place()}/wal"], [(store, None)], keys)
    try:
        kill_again_and_again(server, max(4, ROUNDS // 10), longest=1.2)
    finally:
        server.stop()


def kill_again_and_again(server, rounds, longest=0.6):
    """Kills the server `rounds` times while it is written to, and looks each time whether what is there is what must be."""
    seed = int(os.environ.get("PROXIMADB_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"PROXIMADB_SEED={seed}")
    rng = random.Random(seed)
    server.start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Dot"}})
    model, acknowledged = {}, 0
    for round_number in range(rounds):
        writers = [Writer(server, n, model, rng.randrange(1 << 32)) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        until(lambda: any(writer.acknowledged or writer.refused for writer in writers), "an acknowledged write")
        threading.Event().wait(rng.uniform(0.05, longest))
        server.kill()
        for writer in writers:
            writer.join()
            assert writer.refused is None, writer.refused
        acknowledged += sum(writer.acknowledged for writer in writers)
        server.start()
        points = stored(server)
        for i, (before, after) in model.items():
            now = points[i][0] if i in points else ABSENT
            assert now in (before, after), f"round {round_number}: point {i} is {now}, acknowledged {before}, in doubt {after}"
            if now is not ABSENT:
                assert points[i][1] == vector(now), f"round {round_number}: point {i} has another vector"
            model[i] = (now, now)
        assert set(points) <= set(model), f"round {round_number}: points that nobody wrote"
    assert acknowledged >= rounds, "the writers did real work"
