"""Collection metadata: replicas under kill -9 and with one metadata root gone (issue 3, Shows 8; J1 to J5)."""

import http.client
import os
import random
import threading
import time

import pytest
from conftest import send

UPDATES = int(os.environ.get("PROXIMADB_METADATA_UPDATES", "1000"))
LIVES_MIN = 40
VECTORS = {"vectors": {"size": 4, "distance": "Dot"}}
EVENTUALLY = 90


def copies(server):
    """Name, bytes of the newest record of each collection by root: {collection id: {URL: (name, bytes)}}."""
    while True:
        try:
            return newest_records(server)
        except FileNotFoundError:
            pass  # A newer record came, and the server removed this one, after it was listed.


def newest_records(server):
    found = {}
    for url in server.urls["metadata"]:
        newest = {}
        for file in server.listing(url):
            collection, _, name = file.partition("/")
            if collection != "_proximadb" and name.endswith((".json", ".meta")):
                newest[collection] = max(newest.get(collection, ""), name)
        for collection, name in newest.items():
            found.setdefault(collection, {})[url] = (name.split(".")[0], server.read(url, f"{collection}/{name}"))
    return found


def assert_two_equal(server, collections):
    found = copies(server)
    assert len(found) == collections
    for collection, by_root in found.items():
        assert len(by_root) == 2, f"{collection}: {sorted(by_root)}"
        assert len(set(by_root.values())) == 1, f"{collection}: copies differ"


def eventually(check):
    """Repeats a check until it holds: what the server does in the background needs its time."""
    deadline = time.monotonic() + EVENTUALLY
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def settings(server, name):
    """The two settings that every update changes together."""
    config = server.ok("GET", f"/collections/{name}")["config"]
    return config["optimizer_config"]["indexing_threshold"], config["hnsw_config"]["ef_construct"]


def change(number):
    return {"optimizers_config": {"indexing_threshold": number}, "hnsw_config": {"ef_construct": number}}


class Updater(threading.Thread):
    """Updates one collection as fast as it can, until the server is killed."""

    def __init__(self, server, start):
        super().__init__(daemon=True)
        self.server, self.acknowledged, self.tried, self.refused = server, start, start, None
        self.some = threading.Event()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while True:
            self.tried += 1
            try:
                status, answer = send(connection, "PATCH", "/collections/c", change(self.tried))
            except (OSError, http.client.HTTPException):
                return  # killed: the last one stays in doubt
            if status != 200:
                self.refused = answer
                return
            self.acknowledged = self.tried
            self.some.set()


def test_j2_j3_kill_9_in_a_thousand_updates_leaves_equal_replicas_with_the_old_or_the_new_value(servers):
    seed = int(os.environ.get("PROXIMADB_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"PROXIMADB_SEED={seed}")
    rng = random.Random(seed)
    update_and_kill(servers(roots=2), UPDATES, LIVES_MIN, rng)


def update_and_kill(server, least_updates, least_lives, rng):
    """Kills the server again and again while a collection is updated, until so many updates and kills happened."""
    server.start()
    server.ok("PUT", "/collections/c", VECTORS)
    value, updates, lives = 1000, 0, 0
    server.ok("PATCH", "/collections/c", change(value))
    while updates < least_updates or lives < least_lives:
        updater = Updater(server, value)
        updater.start()
        assert updater.some.wait(60), updater.refused
        time.sleep(rng.uniform(0, 0.25))
        server.kill()
        updater.join()
        assert updater.refused is None, updater.refused
        server.start()
        assert_two_equal(server, 1)
        found, other = settings(server, "c")
        assert found == other, "two updates are mixed"
        assert found in (updater.acknowledged, updater.tried), f"acknowledged {updater.acknowledged}, found {found}"
        updates += updater.acknowledged - value
        value, lives = found, lives + 1
    print(f"{updates} updates, {lives} kills")


def test_j1_records_lie_on_metadata_roots_as_assigned_and_nowhere_else(servers):
    server = servers(roots=3).start()
    for name in "abc":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    found = copies(server)
    for entry in server.ok("GET", "/storage/assignments")["assignments"]:
        if entry["resource_type"] == "Metadata":
            assert entry["storage_url"] in found[entry["resource_id"]]
    assert_two_equal(server, 3)
    roots = [url for component, urls in server.urls.items() if component != "metadata" for url in urls]
    others = [f for url in roots for f in server.listing(url) if f.endswith(".json")]
    assert all(f.split("/")[-2] in ("manifest", "_proximadb", "roots") for f in others), others


def test_j4_json_and_meta_files_are_found(servers):
    server = servers(roots=2, kinds=["disk"]).start()
    for name in "ab":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    server.stop()
    records = [f for f in server.files("metadata", ".json") if "_proximadb" not in f.parts]
    for file in records[: len(records) // 2]:
        file.rename(file.with_suffix(".meta"))
    server.start()
    assert {c["name"] for c in server.ok("GET", "/collections")["collections"]} == {"a", "b"}


def use_everything(server, name, value):
    """Lists, creates, updates, writes and searches; returns nothing, because all of it has to work."""
    server.ok("PUT", f"/collections/{name}", VECTORS)
    listed = {c["name"] for c in server.ok("GET", "/collections")["collections"]}
    assert {"a", "b", name} <= listed
    for collection in ("a", "b", name):
        server.ok("PATCH", f"/collections/{collection}", change(value))
        assert settings(server, collection) == (value, value)
        point = {"id": 1, "vector": [1, 2, 3, 4]}
        server.ok("PUT", f"/collections/{collection}/points?wait=true", {"points": [point]})
        hits = server.ok("POST", f"/collections/{collection}/points/query", {"query": [1, 2, 3, 4]})["points"]
        assert [hit["id"] for hit in hits] == [1]


class Unplugged:
    """A metadata root that is gone: in its place stands a file, so that nothing can be made below it."""

    def __init__(self, server, number):
        self.place = server.path(server.urls["metadata"][number])
        self.away = self.place.with_name("away")

    def __enter__(self):
        self.place.rename(self.away)
        self.place.write_text("gone")

    def __exit__(self, *_):
        self.place.unlink()
        self.away.rename(self.place)


@pytest.mark.parametrize("roots", [2, 3])
@pytest.mark.parametrize("lost", [0, 1])
def test_j5_with_one_metadata_root_gone_while_running_everything_works_and_its_copies_come_back(servers, roots, lost):
    server = servers(roots=roots, kinds=["disk"]).start()
    for name in "ab":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    with Unplugged(server, lost):
        use_everything(server, "new", 500)
        use_everything(server, "newer", 501)
    eventually(lambda: assert_two_equal(server, 4))
    assert settings(server, "a") == (501, 501)
    server.kill()
    server.start()
    assert_two_equal(server, 4)
    assert settings(server, "a") == (501, 501)


@pytest.mark.parametrize("roots", [2, 3])
@pytest.mark.parametrize("lost", [0, 1])
def test_j5_with_one_metadata_root_gone_at_the_start_everything_works_and_its_copies_come_back(servers, roots, lost):
    server = servers(roots=roots, kinds=["disk"]).start()
    for name in "ab":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    server.kill()
    with Unplugged(server, lost):
        server.start()
        use_everything(server, "new", 500)
    eventually(lambda: assert_two_equal(server, 3))
    assert settings(server, "b") == (500, 500)


def test_j5_metadata_roots_that_go_one_after_the_other_hide_no_update(servers):
    server = servers(roots=3, kinds=["disk"]).start()
    for name in "ab":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    for lost, value in [(0, 500), (1, 501), (2, 502), (0, 503)]:
        server.kill()
        with Unplugged(server, lost):
            server.start()
            for name in "ab":
                assert value == 500 or settings(server, name) == (value - 1, value - 1)
                server.ok("PATCH", f"/collections/{name}", change(value))
            server.kill()
    server.start()
    assert_two_equal(server, 2)
    assert settings(server, "a") == settings(server, "b") == (503, 503)
