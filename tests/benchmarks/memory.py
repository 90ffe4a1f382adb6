"""Memory at rest and cold start (issue 5, Shows 5): 1,000,000 vectors of 128 dimensions in 1,000 clusters.

    cargo build --release --workspace; target/python/bin/python tests/benchmarks/memory.py [rows] [dim] [build_memory_mb]

Needs numpy, and root to empty the page cache before the start that is measured (without it the start is warm). Set
`PROXIMADB_BINARY` for another binary, `TMPDIR` for another disk. Imports, waits until all is indexed, and starts the server
again: the time until a search is answered, and the memory of the process then and after all queries. Recall is measured
against exact searches of the server. While it imports, merges and indexes, the memory that is in no file is watched: merges and builds may
hold `build_memory_mb` of it (default 256). Prints a table and, as the last line, JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
os.environ.setdefault("PROXIMADB_BINARY", str(pathlib.Path(__file__).resolve().parents[2] / "target/release/proximadb"))
from conftest import BINARY, Peak, Server, send, until  # noqa: E402
import http.client  # noqa: E402

CLUSTERS, QUERIES, EXACT = 1_000, 1_000, 100


def vectors(rows, dim):
    """Gaussian clusters of different sizes and widths, and queries from the same distribution."""
    generator = numpy.random.default_rng(5)
    centres = generator.normal(size=(CLUSTERS, dim)).astype(numpy.float32)
    share = generator.pareto(2.0, CLUSTERS) + 0.1
    cluster = generator.choice(CLUSTERS, rows + QUERIES, p=share / share.sum())
    width = generator.uniform(0.3, 0.9, CLUSTERS).astype(numpy.float32)
    noise = generator.standard_normal((rows + QUERIES, dim), dtype=numpy.float32)
    all_rows = centres[cluster] + noise * width[cluster][:, None]
    return all_rows[:rows], all_rows[rows:]


def memory(server):
    """MiB of the process by kind."""
    lines = pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: round(int(values[name].split()[0]) / 1024, 1) for name in ("RssAnon", "RssFile")}


def search(connection, vector, exact=False):
    body = {"query": [float(value) for value in vector], "limit": 10, "params": {"exact": exact}}
    status, answer = send(connection, "POST", "/collections/c/points/query", body)
    assert status == 200, answer
    return {point["id"] for point in answer["result"]["points"]}


def drop_caches():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


def main():
    rows, dim, build_memory_mb = (int(argument) for argument in (sys.argv[1:] + ["1000000", "128", "256"][len(sys.argv) - 1 :]))
    raw = rows * dim * 4 / 2**20
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        points, queries = vectors(rows, dim)
        numpy.save(directory / "points.npy", points)
        del points
        server = Server(directory / "db", roots=1, keys={"index": {"build_memory_mb": build_memory_mb}}).start()
        server.ok("PUT", "/collections/c", {"vectors": {"size": dim, "distance": "Euclid"}})
        began = time.monotonic()
        command = [str(BINARY), "import", str(directory / "points.npy"), "--collection", "c"]
        with Peak(server) as importing:
            subprocess.run([*command, "--url", f"http://127.0.0.1:{server.port}"], check=True, capture_output=True)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=1800)
        with Peak(server) as compacting:
            for step in ("flush", "compact"):
                status, answer = send(connection, "POST", f"/collections/c/{step}")
                assert status == 200, answer
            # The smallest segments are scanned.
            until(lambda: server.ok("GET", "/collections/c")["indexed_vectors_count"] >= rows * 0.98, "the index", seconds=1800)
        measured = {"rows": rows, "dim": dim, "raw_mib": round(raw), "ingest_seconds": round(time.monotonic() - began, 1)}
        measured |= {"build_memory_mb": build_memory_mb, "peak_importing": round(importing.bytes / 2**20, 1), "peak_compacting": round(compacting.bytes / 2**20, 1)}
        measured["segments"] = server.ok("GET", "/collections/c")["segments_count"]
        time.sleep(5)
        measured["after_ingest"] = memory(server)
        server.stop()
        os.remove(directory / "points.npy")
        measured["cold"] = drop_caches()
        began = time.monotonic()
        server.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        measured["ready_seconds"] = round(time.monotonic() - began, 2)
        search(connection, queries[0])
        measured["first_answer_seconds"] = round(time.monotonic() - began, 2)
        measured["after_first_answer"] = memory(server)
        time.sleep(10)
        measured["at_rest"] = memory(server)
        began = time.monotonic()
        found = [search(connection, query) for query in queries]
        measured["cold_queries_per_second"] = round(QUERIES / (time.monotonic() - began))
        began = time.monotonic()
        found = [search(connection, query) for query in queries]
        measured["warm_queries_per_second"] = round(QUERIES / (time.monotonic() - began))
        measured["after_queries"] = memory(server)
        true = [search(connection, query, exact=True) for query in queries[:EXACT]]
        measured["recall_at_10"] = round(sum(len(a & b) for a, b in zip(found, true)) / (10 * EXACT), 4)
        measured["load"] = os.getloadavg()[0]
        files = [path for path in (directory / "db").rglob("*") if path.is_file()]
        of = {path.suffix: 0 for path in files}
        for path in files:
            of[path.suffix] += path.stat().st_size
        measured["disk_mib"] = {suffix: round(size / 2**20) for suffix, size in of.items() if size >= 2**20}
        server.stop()
    print(f"{rows:,} × {dim}, {raw:.0f} MiB of floats, recall@10 {measured['recall_at_10']}, disk {measured['disk_mib']} MiB")
    print(f"first answer {measured['first_answer_seconds']} s after the start (page cache {'empty' if measured['cold'] else 'warm'})")
    print(f"most memory that is in no file: {measured['peak_importing']} MiB importing, {measured['peak_compacting']} compacting, {measured['segments']} segments")
    for moment in ("after_ingest", "after_first_answer", "at_rest", "after_queries"):
        kinds = measured[moment]
        total = 100 * sum(kinds.values()) / raw
        print(f"{moment:20} anonymous {kinds['RssAnon']:8} MiB, of files {kinds['RssFile']:8} MiB, {total:5.1f} % of the floats")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
