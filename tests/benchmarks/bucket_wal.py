"""The log on a bucket (issue 4, Shows 7): 64 writers over a server whose answers take 50 ms.

    cargo build --release --workspace; target/python/bin/python tests/benchmarks/bucket_wal.py

All roots but the WAL root are directories, so that every request that the proxy sees is one of the log's. Four loads: one
point a call (latency), and 100, 200 and 300 points a call (throughput). The bandwidth of the server is measured in the same run through
the same proxy: plain puts of objects of the same size, one, two and three at once. The ratio compares with as many at once as the log
had under way on average (the rate of its puts times what one took), on the line between the two nearest. Prints a table and, as the
last line, JSON.
"""

import concurrent.futures
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import random
import sys
import tempfile
import time

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
import conftest  # noqa: E402
from bucket_log import LogServer  # noqa: E402
from buckets import Faults, ObjectStore  # noqa: E402
from conftest import REPOSITORY, send  # noqa: E402

conftest.BINARY = pathlib.Path(os.environ.get("PROXIMADB_BINARY", REPOSITORY / "target" / "release" / "proximadb"))
LATENCY_MS = 50
LOADS = (1, 100, 200, 300)
WRITERS, DIM, SECONDS = 64, 384, 15
# Plain puts at once, and how long: the server keeps in memory what it gets.
AT_ONCE, PLAIN_SECONDS = (1, 2, 3), 4


def bodies_of(writers, per_call):
    """Per writer the bodies that it sends again and again, made before the clock starts: making JSON is not what is measured."""
    generator = random.Random(7)
    vectors = [json.dumps([generator.randrange(1000) / 1000 for _ in range(DIM)]) for _ in range(500)]

    def body(first):
        points = (f'{{"id":{first + at},"vector":{generator.choice(vectors)}}}' for at in range(per_call))
        return f'{{"points":[{",".join(points)}]}}'.encode()

    return [[body((writer * 4 + n) * per_call) for n in range(4)] for writer in range(writers)]


def write(port, bodies, per_call, until, latencies):
    """One writer: calls one after the other; returns the points that were acknowledged."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    written, call = 0, 0
    while time.monotonic() < until:
        began = time.monotonic()
        status, answer = send(connection, "PUT", "/collections/c/points?wait=true", bodies[call % len(bodies)])
        assert status == 200, answer
        latencies.append(time.monotonic() - began)
        written, call = written + per_call, call + 1
    return written


def load(server, proxy, totals, per_call, writers=WRITERS):
    """Acknowledged calls: latencies, points and bytes a second, requests a second, sizes of the objects."""
    latencies, bodies = [], bodies_of(writers, per_call)
    proxy.set({"action": "latency", "ms": LATENCY_MS})
    before = totals()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(writers) as pool:
        points = sum(pool.map(lambda own: write(server.port, own, per_call, began + SECONDS, latencies), bodies))
    seconds = time.monotonic() - began
    puts, written, busy = (now - then for now, then in zip(totals(), before))
    latencies.sort()
    return {
        "p50_ms": round(1000 * latencies[len(latencies) // 2]),
        "p99_ms": round(1000 * latencies[len(latencies) * 99 // 100]),
        "points_a_second": round(points / seconds),
        "requests_a_second": round(puts / seconds, 1),
        "put_ms": round(1000 * busy / max(puts, 1)),
        "under_way": round(busy / seconds, 2),
        "object_bytes": round(written / max(puts, 1)),
        "mb_a_second": round(written / seconds / 1e6, 2),
    }


def signed(method, host, path, sha256, options):
    """Headers of a request with Amazon's signature, version 4."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"host": host, "if-none-match": "*", "x-amz-content-sha256": sha256, "x-amz-date": now}
    names = ";".join(headers)
    canonical = "\n".join([method, path, "", *(f"{name}:{value}" for name, value in headers.items()), "", names, sha256])
    scope = f"{now[:8]}/{options['region']}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + options["secret_access_key"]).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"{options['access_key_id']}/{scope}"
    return headers | {"Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"}


def raw(store, proxy, bytes_each, in_flight):
    """MB/s of plain creates through the proxy: the server's own bandwidth for such objects."""
    body, counted, until = os.urandom(bytes_each), [0] * in_flight, time.monotonic() + PLAIN_SECONDS
    sha256, host = hashlib.sha256(body).hexdigest(), proxy.address.removeprefix("http://")

    def put(worker):
        connection = http.client.HTTPConnection(host, timeout=600)
        while time.monotonic() < until:
            path = f"/test/raw-{bytes_each}/{worker}/{counted[worker]}"
            connection.request("PUT", path, body, signed("PUT", host, path, sha256, store.options))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            counted[worker] += 1

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(put, range(in_flight)))
    return sum(counted) * bytes_each / (time.monotonic() - began) / 1e6


def main():
    store = ObjectStore("s3")
    proxy = Faults(store)
    result = {"load_average": os.getloadavg()[0]}
    try:
        with tempfile.TemporaryDirectory() as directory:
            # Nothing is flushed meanwhile: the log is what is measured.
            keys = {"wal": {"memory_flush_size_bytes": 4 << 30, "global_flush_threshold": 8 << 30}}
            server = LogServer(pathlib.Path(directory) / "db", [f"{store.place()}/wal"], [(store, proxy.endpoint)], keys)
            server.start()
            try:
                server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})

                def totals():
                    """Puts of the log, their bytes, and the seconds that they took."""
                    labels = {"component": "wal", "operation": "create"}
                    names = ("operations_total", "moved_bytes_total", "latency_seconds_sum")
                    return tuple(server.metric(f"proximadb_root_{name}", **labels) for name in names)

                result["loads"] = {per_call: load(server, proxy, totals, per_call) for per_call in LOADS}
                idle = totals()[0]
                time.sleep(5)
                result["requests_while_idle"] = totals()[0] - idle
            finally:
                server.stop()
            proxy.set({"action": "latency", "ms": LATENCY_MS})
            for measured in result["loads"].values():
                plain = [raw(store, proxy, measured["object_bytes"] + at_once, at_once) for at_once in AT_ONCE]
                bandwidth = float(numpy.interp(measured["under_way"], AT_ONCE, plain))
                measured |= {"raw_mb_a_second": [round(mb, 1) for mb in plain], "ratio": round(measured["mb_a_second"] / bandwidth, 2)}
    finally:
        proxy.close()
        store.close()
    for per_call, measured in result["loads"].items():
        print(f"{per_call} points a call: {measured}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
