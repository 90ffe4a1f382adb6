"""A log on buckets among logs on disks: moves off and on, what operators see, outages (issue 4; F13, K5, inv. 10 and 11)."""

import http.client
import json
import threading
import time

import pytest

from bucket_log import LogServer
from conftest import Server, send
from test_lifecycle import drain, is_drained, roots, until

DIM = 8


def point(i):
    return {"id": i, "vector": [float(i % (n + 7)) for n in range(DIM)], "payload": {"i": i}}


class Load(threading.Thread):
    """Upserts one point after the other; knows which were acknowledged."""

    def __init__(self, server, first):
        super().__init__(daemon=True)
        self.server, self.next, self.acknowledged, self.refused, self.ended = server, first, set(), [], False

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        while not self.ended:
            i, self.next = self.next, self.next + 1
            try:
                status, answer = send(connection, "PUT", "/collections/c/points?wait=true", {"points": [point(i)]})
            except (OSError, http.client.HTTPException):
                return
            if status == 200:
                self.acknowledged.add(i)
            else:
                self.refused.append(answer)

    def end(self):
        self.ended = True
        self.join()


def stored(server):
    ids, offset = set(), None
    while True:
        page = server.ok("POST", "/collections/c/points/scroll", {"limit": 1000, "offset": offset})
        ids.update(point["id"] for point in page["points"])
        offset = page["next_page_offset"]
        if offset is None:
            return ids


@pytest.fixture
def mixed(tmp_path, stores):
    """A server with WAL roots on S3, a disk and Google Cloud Storage; the first collection's log is on S3."""
    s3, gcs = stores("s3"), stores("gcs")
    wal = [f"{s3.place()}/wal", f"file://{tmp_path}/db/wal", f"{gcs.place()}/wal"]
    server = LogServer(tmp_path / "db", wal, [(s3, None), (gcs, None)]).start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
    yield server
    server.stop()


def test_f13_k5_a_log_moves_off_buckets_under_load_and_waits_quietly_for_writers_before_it(mixed):
    server = mixed
    acknowledged = set()
    # A killed writer, whose place on the bucket has to be respected.
    load = Load(server, 0)
    load.start()
    until(lambda: len(load.acknowledged) >= 5, "some writes")
    server.kill()
    load.join()
    acknowledged |= load.acknowledged
    server.start()
    assert acknowledged <= stored(server)
    load = Load(server, 10_000)
    load.start()
    moves = lambda: server.ok("GET", "/storage/moves")["moves"]
    for step in range(3):
        leaving = next(root for root in roots(server, "wal") if root["assignments"] == 1)
        drain(server, leaving)
        if step == 0:
            assert leaving["url"].startswith("s3://")
            # On a machine that was too slow so far nobody has to be waited for any more.
            seen = until(lambda: [move for move in moves() if move.get("error")] or is_drained(server, "wal", leaving["id"]), "a move")
            assert seen is True or "waits until no earlier writer" in seen[0]["error"], seen
        until(lambda: is_drained(server, "wal", leaving["id"]), f"the drain of {leaving['url']}")
        server.ok("POST", f"/storage/roots/{leaving['id']}/resume")
    load.end()
    assert load.refused == []
    acknowledged |= load.acknowledged
    said = [line for line in (server.base / "server.log").read_text().splitlines() if "a move is tried again" in line]
    assert len(said) <= 2, said
    server.kill()
    server.start()
    assert acknowledged <= stored(server)
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


def test_f9_f13_operators_see_a_log_on_a_bucket(mixed):
    server = mixed
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [point(i) for i in range(5)]})
    server.kill()
    server.start()
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [point(i) for i in range(5, 8)]})
    server.stop()
    stats = json.loads(server.command("wal", "stats", "--json").stdout)["logs"]
    log = next(log for log in stats if log["root"] == server.urls["wal"][0])
    # A fence of each opening, and two blocks.
    assert (log["files"], log["entries"], log["blocks"]) == (4, 8, 2), log
    dumped = [json.loads(line) for line in server.command("wal", "dump").stdout.splitlines()]
    assert [entry["id"] for entry in dumped] == list(range(8))
    assert [entry["seq"] for entry in dumped] == sorted(entry["seq"] for entry in dumped)
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


def test_f13_an_idle_log_makes_no_request(mixed):
    server = mixed
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [point(1)]})
    creates = lambda: server.metric("proximadb_root_operations_total", component="wal", operation="create")
    before = creates()
    assert before >= 2, "the fence and the block are counted"
    # Not a synchronisation: time in which nothing may happen.
    time.sleep(2)
    assert creates() == before


def test_f13_a_larger_flush_size_means_fewer_puts(tmp_path, stores):
    store, puts = stores("s3"), []
    for kib in (64, 256, 1024):
        keys = {"wal": {"memory_flush_size_bytes": kib * 1024}}
        place = store.place()
        server = LogServer(tmp_path / f"{kib}", [f"{place}/wal"], [(store, None)], keys)
        server.urls["viper"] = [f"{place}/viper"]
        server.write_config()
        server.start()
        try:
            server.ok("PUT", "/collections/c", {"vectors": {"size": 256, "distance": "Euclid"}})
            for start in range(0, 2000, 50):
                points = [{"id": i, "vector": [float(i % (n + 7)) for n in range(256)]} for i in range(start, start + 50)]
                server.ok("PUT", "/collections/c/points?wait=true", {"points": points})
            server.ok("POST", "/collections/c/flush")
            puts.append(server.ok("GET", "/storage/stats")["components"]["viper"]["put"])
        finally:
            server.stop()
    assert puts[0] > puts[1] > puts[2], puts


def test_k3_a_log_leaves_a_bucket_that_fails_and_comes_home(tmp_path, own_store, faults):
    store = own_store("s3")
    proxy = faults(store)
    wal = [f"{store.place()}/wal", f"file://{tmp_path}/db/wal"]
    server = LogServer(tmp_path / "db", wal, [(store, proxy.endpoint)]).start()
    try:
        server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
        server.ok("PUT", "/collections/c/points?wait=true", {"points": [point(1)]})
        proxy.set({"action": "status", "status": 503})
        load = Load(server, 2)
        load.start()
        until(lambda: load.acknowledged, "a write on the disk")
        assert server.metric("proximadb_wal_failovers_total") == 1
        proxy.set()
        placed = lambda: server.ok("GET", "/storage/assignments?collection=c&component=wal")["assignments"][0]
        until(lambda: server.metric("proximadb_root_up", component="wal") == 2, "the bucket to be back")
        until(lambda: not list(server.path(wal[1]).rglob("*.avro")), f"the log to come home: {placed()}")
        load.end()
        acknowledged = load.acknowledged | {1}
        server.kill()
        server.start()
        assert acknowledged <= stored(server)
    finally:
        server.stop()


# The objects of a log, and nothing else.
LOG_OBJECT = {"method": "PUT", "path": r"/\d{20}\.avro$"}


def test_issue4_a_log_that_cannot_be_taken_over_is_searched_and_written_when_it_can(tmp_path, own_store, faults):
    store = own_store("s3")
    proxy = faults(store)
    server = LogServer(tmp_path / "db", [f"{store.place()}/wal"], [(store, proxy.endpoint)]).start()
    write = lambda i: server.request("PUT", "/collections/c/points?wait=true", {"points": [point(i)]})
    try:
        server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
        assert write(1)[0] == 200
        server.kill()
        proxy.set({"action": "status", "status": 403} | LOG_OBJECT)
        server.start()
        for _ in range(3):
            assert stored(server) == {1}
            status, answer = write(2)
            assert status == 503 and store.url in json.dumps(answer), answer
        proxy.set()
        until(lambda: write(3)[0] == 200, "a write")
        assert stored(server) == {1, 3}
        server.kill()
        server.start()
        assert stored(server) == {1, 3}
    finally:
        server.stop()


def test_inv11_a_partial_update_keeps_what_another_process_wrote_before_it_was_stopped(tmp_path, own_store, faults):
    store = own_store("s3")
    proxy = faults(store)
    old = Server(tmp_path / "old", roots=1, kinds=("s3",), stores=lambda kind: store)
    new = Server(tmp_path / "new", roots=1, kinds=("s3",), stores=lambda kind: store, endpoints={"s3": proxy.endpoint})
    new.urls = old.urls
    new.write_config()
    write = lambda server, points: server.request("PUT", "/collections/c/points?wait=true", {"points": points})
    try:
        old.start()
        old.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
        assert write(old, [point(1), point(2)])[0] == 200
        # The new process reads the log, and its fence is on its way for a while.
        proxy.set({"action": "latency", "ms": 3000} | LOG_OBJECT)
        new.start()
        assert stored(new) == {1, 2}
        assert write(old, [point(1) | {"vector": [9.0] * DIM}])[0] == 200
        new.ok("POST", "/collections/c/points/payload?wait=true", {"payload": {"new": True}, "points": [1]})
        status, answer = write(old, [point(3)])
        assert status == 503 and "fenced" in json.dumps(answer), answer
        updated = new.ok("GET", "/collections/c/points/1")
        assert updated["vector"] == [9.0] * DIM and updated["payload"] == {"i": 1, "new": True}
        assert stored(new) == {1, 2}
    finally:
        old.stop()
        new.stop()
