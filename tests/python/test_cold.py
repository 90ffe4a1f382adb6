"""What buckets are asked, by the log of their own server: rounds of a cold start and search, the cache, idling, the bill.

`PROXIMADB_COLD_POINTS=200000` runs it over so many points (made of the sample's vectors).
"""

import os
import pathlib
import random
import shutil
import time
from collections import Counter

import pytest

from conftest import SECTIONS, Server

POINTS = int(os.environ.get("PROXIMADB_COLD_POINTS", "5000"))
# Far above what a request takes by itself, so that requests of one round overlap also on a busy machine. Reads are sent a
# second time after about a second: within their round.
LATENCY_MS = 2500
# Smaller segments are scanned.
INDEXED_ROWS = 2048
# What is looked after by itself is looked after every 30 s or more often.
IDLE_SECONDS = float(os.environ.get("PROXIMADB_IDLE_SECONDS", "33"))


class OnBucket(Server):
    """A server all of whose roots are in a bucket, with a cache directory of its own."""

    def __init__(self, base, store, endpoint):
        self.cache = pathlib.Path(base) / "cache"
        super().__init__(base, roots=1, kinds=("s3",), stores=lambda kind: store, endpoints={"s3": endpoint})

    def write_config(self):
        super().write_config()
        lines = ["[cache]", f'directory = "{self.cache}"', ""]
        self.config.write_text(self.config.read_text() + "\n".join(lines))


def rounds(log):
    """Sequential rounds: the longest chain of requests of which each began after the one before had ended."""
    count, ended = 0, 0
    for request in sorted(log, key=lambda request: request["ended"]):
        if request["began"] >= ended:
            count, ended = count + 1, request["ended"]
    return count


def finished(proxy):
    """The log when no request is under way and none came for a while."""
    deadline = time.monotonic() + 120
    before = None
    while time.monotonic() < deadline:
        log = proxy.log()
        if log == before and all(request["ended"] for request in log):
            return log
        before = log
        time.sleep(1)
    pytest.fail("requests do not end")


def classes(log):
    """Requests by what a cloud bills them as."""
    def of(request):
        if request["method"] == "DELETE" or "delete" in request["query"].split("&"):
            return "delete"
        if request["method"] == "GET" and "list-type" in request["query"]:
            return "list"
        return "get" if request["method"] in ("GET", "HEAD") else "put"
    names = [of(request) for request in log]
    return {name: names.count(name) for name in ("put", "list", "get", "delete")}


def report(what, log):
    print(f"\n{what}: {rounds(log)} rounds, {len(log)} requests {classes(log)}")


def search(server, packages, exact=False):
    body = {"query": packages[7]["vector"], "limit": 10, "with_payload": True, "params": {"exact": exact}}
    return server.ok("POST", "/collections/c/points/query", body)["points"]


def explained(server, vector):
    """What a search read from buckets, as the server says it."""
    return server.ok("POST", "/collections/c/explain", {"query": vector, "limit": 10, "with_payload": True})["storage"]


def fill(server, packages, count):
    """Points until there are enough: the sample's, moved a little each time it is used again."""
    dimensions = len(packages[0]["vector"])
    body = {"vectors": {"size": dimensions, "distance": "Cosine"}, "metadata": {"proximadb": {"storage_engine": "viper"}}}
    server.ok("PUT", "/collections/c", body)
    numbers = random.Random(7)
    for start in range(0, count, 500):
        points = []
        for at in range(start, min(start + 500, count)):
            of = packages[at % len(packages)]
            moved = of["vector"] if at < len(packages) else [x + numbers.gauss(0, 0.02) for x in of["vector"]]
            points.append({"id": at + 1, "vector": moved, "payload": {"name": of["payload"]["name"]}})
        server.ok("PUT", "/collections/c/points?wait=true", {"points": points})
    server.ok("POST", "/collections/c/flush")
    server.ok("POST", "/collections/c/compact")


def settled(server):
    """Waits until every segment that is large enough has its two index files, and no merge is under way."""
    deadline, before = time.monotonic() + 1800, None
    while time.monotonic() < deadline:
        rows = Counter()
        for cluster in server.ok("GET", "/collections/c/clusters")["clusters"]:
            rows[cluster["segment"]] += cluster["rows"]
        indexed = sum(count >= INDEXED_ROWS for count in rows.values())
        files = server.ok("GET", "/storage/stats")["components"]["index"]["files"]
        if files == 2 * indexed > 0 and rows == before:
            return
        before = rows
        time.sleep(1)
    pytest.fail(f"{files} index files for segments of {before}")


def total(server):
    """The bill of all components, and by class."""
    stats = server.ok("GET", "/storage/stats")
    requests = {name: sum(of[name] for of in stats["components"].values()) for name in ("put", "list", "get", "delete")}
    return stats, requests


def idling(base, store, proxy, packages):
    """A server with an open collection, indexed, that nobody uses from now on, and since when."""
    server = OnBucket(base, store, proxy.endpoint)
    server.start()
    fill(server, packages, min(POINTS, 3000))
    settled(server)
    finished(proxy)
    proxy.forget()
    return server, time.monotonic()


def check_idle(server, proxy, since):
    """An idle server asks nothing, whatever Prometheus asks of it."""
    while (left := since + IDLE_SECONDS - time.monotonic()) > 0:
        time.sleep(min(left, 5))
        assert server.request("GET", "/metrics")[0] == 200
    assert server.request("GET", "/metrics")[0] == 200
    assert proxy.log() == []


def test_issue4_a_cold_search_takes_few_rounds_a_warm_one_none_and_idling_costs_nothing(tmp_path, own_store, faults, packages):
    store = own_store("s3")
    proxy, idle_proxy = faults(store), faults(store)
    idle, since = idling(tmp_path / "idle", store, idle_proxy, packages)
    server = OnBucket(tmp_path / "db", store, proxy.endpoint)
    try:
        server.start()
        fill(server, packages, POINTS)
        settled(server)
        flush_costs_few_requests(server, proxy, packages)
        server.ok("POST", "/collections/c/compact")
        settled(server)
        expected, exact = search(server, packages), search(server, packages, exact=True)
        server.stop()

        # Cold: nothing of it is on this machine.
        shutil.rmtree(server.cache)
        proxy.set({"action": "latency", "ms": LATENCY_MS})
        server.start()
        start = finished(proxy)
        report("start", start)
        proxy.forget()
        assert search(server, packages) == expected
        first = finished(proxy)
        report("first search", first)
        assert rounds(first) <= 4, first
        proxy.forget()

        assert search(server, packages) == expected
        assert finished(proxy) == [], "a second search asks nothing"

        # What the process counted is what the server got.
        stats, counted = total(server)
        logged = classes(start + first)
        asked = classes(finished(proxy))
        for name in ("put", "delete"):
            assert counted[name] == logged[name] + asked[name], name
        assert logged["list"] <= counted["list"] <= logged["list"] + asked["list"]
        # A second request may be given up on its way.
        hedged = sum(of["hedged"] for of in stats["components"].values())
        assert 0 <= counted["get"] - logged["get"] - asked["get"] <= hedged
        prices = {"put": 0.005, "list": 0.005, "get": 0.0004}
        received = sum(of["received_bytes"] for of in stats["components"].values())
        bill = sum(counted[name] * price / 1000 for name, price in prices.items()) + received / 1e9 * 0.09
        assert stats["cost_usd"] == pytest.approx(bill)
        stored = stats["components"]["viper"]["bytes"] + stats["components"]["index"]["bytes"]
        print(f"received {received} of {stored} bytes")
        assert received < stored / 3
        metered(server, counted)
        proxy.set()

        # What a search says of itself is what the server saw, and again it is nothing.
        proxy.forget()
        told = explained(server, packages[1234]["vector"])
        seen = finished(proxy)
        report("another search", seen)
        assert classes(seen)["get"] == len(seen) == told["requests"] > 0, told
        assert rounds(seen) <= told["rounds"] <= 3, told
        assert 0 < told["bytes"] < stored / 4, told
        assert [root["requests"] for root in told["roots"]] == [told["requests"]]
        proxy.forget()
        nothing = {"rounds": 0, "bytes": 0, "requests": 0, "roots": []}
        assert explained(server, packages[1234]["vector"]) == nothing
        assert finished(proxy) == []
        server.stop()

        # Warm: what was read comes from the cache's directory.
        proxy.forget()
        server.start()
        assert search(server, packages) == expected
        warm = finished(proxy)
        report("start and first search with a warm cache", warm)
        again = [request for request in warm if request["path"].endswith((".parquet", ".ivf", ".idx"))]
        # What comes faster than the disk takes it, beyond 256 MB, is not kept and read again.
        assert len(again) <= (0 if POINTS < 100_000 else len(first) // 4), warm
        assert server.ok("GET", "/storage/stats")["caches"]["index"]["hits"] > 0
        server.stop()

        # Damaged: what does not match its checksum is read again.
        for file in server.cache.rglob("foyer*"):
            damage(file)
        proxy.forget()
        server.start()
        assert search(server, packages) == expected
        assert [request for request in finished(proxy) if request["path"].endswith(".idx")]
        # With everything compared, everything is read; the answer is that of before.
        assert search(server, packages, exact=True) == exact
        found = {point["id"] for point in expected}
        assert len(found & {point["id"] for point in exact}) >= 9
        check_idle(idle, idle_proxy, since)
    finally:
        server.stop()
        idle.stop()


def flush_costs_few_requests(server, proxy, packages):
    """One flush is one segment and one manifest."""
    finished(proxy)
    proxy.forget()
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [{"id": 1, "vector": packages[0]["vector"], "payload": {"name": packages[0]["payload"]["name"]}}]})
    server.ok("POST", "/collections/c/flush")
    flush = [request for request in finished(proxy) if request["path"].endswith((".parquet", ".json"))]
    report("flush", flush)
    assert classes(flush)["put"] == 2 and len(flush) <= 4, flush


def metered(server, counted):
    """/metrics says the same."""
    status, text = server.request("GET", "/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if line.startswith("proximadb_root_requests_total{")]
    for name in ("put", "get", "delete"):
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if f'class="{name}"' in line]
        assert sum(values) == counted[name], (name, lines)
    assert "proximadb_root_cost_usd_total{" in text and "proximadb_cache_hits_total{" in text
    assert "file://" not in "".join(lines), "a disk bills nothing"


def test_a18_tables_on_a_bucket_come_from_the_cache_of_the_lsm_component(tmp_path, own_store, faults, packages):
    store = own_store("s3")
    proxy = faults(store)
    server = OnBucket(tmp_path / "db", store, proxy.endpoint)

    def restarted():
        """The answer of a search after a restart, and how many requests read tables."""
        server.stop()
        proxy.forget()
        server.start()
        return search(server, packages), sum(request["method"] == "GET" for request in proxy.log() if request["path"].endswith(".sst"))

    try:
        server.start()
        dimensions = len(packages[0]["vector"])
        body = {"vectors": {"size": dimensions, "distance": "Cosine"}, "metadata": {"proximadb": {"storage_engine": "lsm"}}}
        server.ok("PUT", "/collections/c", body)
        points = [{"id": at + 1, "vector": p["vector"], "payload": {"name": p["payload"]["name"]}} for at, p in enumerate(packages[:1000])]
        server.ok("PUT", "/collections/c/points?wait=true", {"points": points})
        server.ok("POST", "/collections/c/flush")
        expected = search(server, packages)
        cold, warm = restarted(), restarted()
        assert cold[0] == warm[0] == expected
        assert cold[1] > 0 and warm[1] == 0, (cold[1], warm[1])
        assert server.ok("GET", "/storage/stats")["caches"]["lsm"]["hits"] > 0
        server.config.write_text(server.config.read_text().replace("[storage.lsm_config]", "[storage.lsm_config]\ncache_size_mb = 0"))
        without = restarted()
        assert without[0] == expected and without[1] > 0
        assert "lsm" not in server.ok("GET", "/storage/stats")["caches"]
    finally:
        server.stop()


def damage(path):
    """Flips a byte in every fourth page that holds anything."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(100, size, 4 * 4096):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


def test_issue4_a_cache_disk_that_fails_or_is_full_stops_no_search(tmp_path, own_store, faults, packages, tmpfs, faultfs):
    store = own_store("s3")
    server = OnBucket(tmp_path / "db", store, store.endpoint)
    full = tmpfs("64k", "full")
    full.fill()
    broken = faultfs(tmp_path / "backing", "broken")
    try:
        server.start()
        points = [{"id": at + 1, "vector": p["vector"], "payload": {}} for at, p in enumerate(packages[:300])]
        dimensions = len(packages[0]["vector"])
        server.ok("PUT", "/collections/c", {"vectors": {"size": dimensions, "distance": "Cosine"}})
        server.ok("PUT", "/collections/c/points?wait=true", {"points": points})
        server.ok("POST", "/collections/c/flush")
        expected = search(server, packages)
        server.stop()
        for cache, fault in ((full.path / "cache", None), (broken.path / "cache", "error EIO")):
            server.cache = cache
            server.write_config()
            if fault:
                broken.set(fault)
            server.start()
            assert search(server, packages) == expected
            server.stop()
    finally:
        broken.set()
        server.stop()
