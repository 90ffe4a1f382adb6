"""How long a start takes that finds 1,000 and 10,000 collections on four roots, and how many listings of the roots it makes.

    cargo build --release --workspace; target/python/bin/python tests/benchmarks/startup.py

Set `PROXIMADB_BINARY` for another binary, `TMPDIR` for another disk (default: /dev/shm, where 10,000 collections are made in
seconds). The files are read warm. Prints a table and, as the last line, JSON.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
os.environ.setdefault("PROXIMADB_BINARY", str(pathlib.Path(__file__).resolve().parents[2] / "target/release/proximadb"))
from conftest import Server, send  # noqa: E402

ROOTS, CLIENTS, STARTS = 4, 8, 3
SIZES = (1_000, 10_000)


def create(port, numbers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    for n in numbers:
        status, answer = send(connection, "PUT", f"/collections/c{n}", {"vectors": {"size": 4, "distance": "Dot"}})
        assert status == 200, answer


def start(server):
    """Seconds until the server is ready, and the listings that it made meanwhile."""
    began = time.monotonic()
    server.start()
    took = time.monotonic() - began
    return took, sum(root["operations"]["list"]["count"] for root in server.ok("GET", "/storage/roots")["roots"])


def main():
    measured = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/dev/shm")) as directory:
        server = Server(pathlib.Path(directory) / "db", roots=ROOTS).start()
        made = 0
        for size in SIZES:
            shares = [range(made + n, size, CLIENTS) for n in range(CLIENTS)]
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda share: create(server.port, share), shares))
            made = size
            starts = []
            for _ in range(STARTS):
                server.stop()
                starts.append(start(server))
            assert len(server.ok("GET", "/collections")["collections"]) == size
            seconds = sorted(took for took, _ in starts)
            measured[size] = {"seconds": [round(took, 2) for took in seconds], "listings": starts[0][1]}
            print(f"{size:6} collections: ready after {seconds[len(seconds) // 2]:5.2f} s (median of {STARTS}), {starts[0][1]} listings")
        server.stop()
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
