"""One collection over one root and over four, each root on a disk of the same limited rate: how much faster are ingest and scan?

    cargo build --release --workspace; target/python/bin/python tests/benchmarks/striping.py

Needs root and /dev/fuse (the disks are `faultfs` over tmpfs). Prints a table and, as the last line, JSON.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
os.environ.setdefault("PROXIMADB_BINARY", str(pathlib.Path(__file__).resolve().parents[2] / "target/release/proximadb"))
from conftest import BINARY, Server, send  # noqa: E402
from faults import FaultFs, Tmpfs  # noqa: E402

RATE = 4_000_000  # Bytes per second of one disk, reads and writes together.
POINTS, DIM, BATCH, WRITERS = 48_000, 768, 250, 8


def bodies():
    """Upserts as JSON, made before any clock runs."""
    generator = random.Random(1)
    made = []
    for start in range(0, POINTS, BATCH):
        points = [
            {"id": start + n, "vector": [generator.randrange(1000) / 1000 for _ in range(DIM)]} for n in range(BATCH)
        ]
        made.append(json.dumps({"points": points}))
    return made


def upsert(port, share):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    for body in share:
        status, answer = send(connection, "PUT", "/collections/c/points?wait=true", body)
        assert status == 200, answer


def measure(base, disks, upserts):
    """Seconds of ingest (all acknowledged and flushed) and of a scan (everything read back after a restart without indexes)."""
    urls = {
        "wal": [f"file://{disk.path}/wal" for disk in disks],
        "viper": [f"file://{disk.path}/viper" for disk in disks],
        **{component: [f"file://{base}/{component}"] for component in ("lsm", "index", "metadata")},
    }
    keys = {
        "wal": {"collection_affinity": False, "memory_flush_size_bytes": 8 << 20},
        "viper": {"collection_affinity": False},
        "metadata": {"backup_replicas": 1},
    }
    server = Server(base, urls=urls, keys=keys)
    server.start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
    for disk in disks:
        disk.set(f"rate {RATE}")
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda n: upsert(server.port, upserts[n::WRITERS]), range(WRITERS)))
    server.ok("POST", "/collections/c/flush")
    ingest = time.monotonic() - began
    for disk in disks:
        disk.set()
    server.stop()
    # Everything is read from the striped data, and not from what was derived of it.
    for collection in (pathlib.Path(base) / "index").glob("*-*"):
        shutil.rmtree(collection)
    server.start()
    for disk in disks:
        disk.set(f"rate {RATE}")
    began = time.monotonic()
    counted = server.ok("POST", "/collections/c/points/count", {"exact": True})["count"]
    scan = time.monotonic() - began
    assert counted == POINTS, counted
    for disk in disks:
        disk.set()
    server.stop()
    return ingest, scan


def main():
    upserts = bodies()
    binary = BINARY.with_name("faultfs")
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for roots in (1, 4):
            base = pathlib.Path(directory) / str(roots)
            memory = Tmpfs(base / "memory", "2g")
            disks = [FaultFs(binary, memory.path / str(n), base / f"disk{n}") for n in range(roots)]
            try:
                results[roots] = measure(base / "db", disks, upserts)
            finally:
                for disk in disks:
                    disk.close()
                memory.close()
    raw_mb = POINTS * DIM * 4 / 1e6
    print(f"{POINTS} x {DIM} ({raw_mb:.0f} MB raw), each disk {RATE / 1e6:.0f} MB/s")
    for roots, (ingest, scan) in results.items():
        print(f"{roots} root(s): ingest {ingest:6.1f} s   scan {scan:6.1f} s")
    (ingest1, scan1), (ingest4, scan4) = results[1], results[4]
    ratios = {"ingest": round(ingest1 / ingest4, 2), "scan": round(scan1 / scan4, 2)}
    print(f"four roots against one: ingest {ratios['ingest']}x, scan {ratios['scan']}x")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
