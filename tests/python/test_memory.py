"""Memory stays small, and answers stay the same (I4): vectors of segments are mapped from their index files, and merges keep to a limit."""

import numpy

from conftest import Peak, Server, anonymous, until

ROWS, DIM = 20_000, 512
RAW_BYTES = ROWS * DIM * 4


def answers(server, queries, exact):
    """Ids and scores of the ten nearest."""
    found = []
    for query in queries.tolist():
        body = {"query": query, "limit": 10, "params": {"exact": exact}}
        points = server.ok("POST", "/collections/c/points/query", body)["points"]
        found.append([(point["id"], point["score"]) for point in points])
    return found


def test_i4_memory_at_rest_is_far_below_the_vectors_and_answers_stay(tmp_path):
    generator = numpy.random.default_rng(4)
    centres = generator.normal(size=(50, DIM))
    rows = centres[generator.integers(50, size=ROWS)] + 0.3 * generator.normal(size=(ROWS, DIM))
    rows = rows.astype(numpy.float32)
    numpy.save(tmp_path / "rows.npy", rows)
    queries = rows[::2500]

    server = Server(tmp_path / "db", roots=1, keys={"wal": {"memory_flush_size_bytes": 1 << 30}}).start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
    server.stop()
    server.start()
    empty = anonymous(server)
    url = f"http://127.0.0.1:{server.port}"
    done = server.command("--json", "import", str(tmp_path / "rows.npy"), "--collection", "c", "--url", url)
    assert done.returncode == 0, done.stderr
    expected = answers(server, queries, exact=True)

    server.ok("POST", "/collections/c/flush")
    root = server.path(server.urls["index"][0])
    until(lambda: list(root.rglob("*.idx")), "the rows file")
    until(lambda: server.ok("GET", "/collections/c")["indexed_vectors_count"] == ROWS, "the index")
    assert answers(server, queries, exact=True) == expected
    near = answers(server, queries, exact=False)

    server.stop()
    server.start()
    assert answers(server, queries, exact=True) == expected
    assert answers(server, queries, exact=False) == near
    until(lambda: anonymous(server) - empty < 0.3 * RAW_BYTES, "memory that is free of vectors")

    server.stop()
    for file in [*root.rglob("*.idx"), *root.rglob("*.ivf")]:
        file.unlink()
    server.start()
    assert answers(server, queries, exact=True) == expected
    until(lambda: list(root.rglob("*.idx")) and list(root.rglob("*.ivf")), "the files")
    assert answers(server, queries, exact=True) == expected
    server.stop()


def test_i4_merges_and_index_builds_keep_to_their_memory(tmp_path):
    """`build_memory_mb` holds for an explicit compaction of more rows than fit into it."""
    rows = numpy.random.default_rng(5).normal(size=(2 * ROWS, DIM)).astype(numpy.float32)
    numpy.save(tmp_path / "rows.npy", rows)
    queries, limit = rows[1::4000], 48 << 20
    server = Server(tmp_path / "db", roots=1, keys={"index": {"build_memory_mb": limit >> 20}}).start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
    done = server.command("--json", "import", str(tmp_path / "rows.npy"), "--collection", "c", "--url", f"http://127.0.0.1:{server.port}")
    assert done.returncode == 0, done.stderr
    # So that every segment is to be rewritten.
    server.ok("POST", "/collections/c/points/delete?wait=true", {"points": list(range(0, 2 * ROWS, 10))})
    server.ok("POST", "/collections/c/flush")
    expected = answers(server, queries, exact=True)

    server.stop()
    server.start()
    # The smallest segments get none.
    until(lambda: server.ok("GET", "/collections/c")["indexed_vectors_count"] >= 1.5 * ROWS, "the index")
    before = anonymous(server)
    with Peak(server) as peak:
        server.ok("POST", "/collections/c/compact")
        until(lambda: server.ok("GET", "/collections/c")["indexed_vectors_count"] == 1.8 * ROWS, "the index")
    held = peak.bytes - before
    assert held < 2 * limit, f"{held >> 20} MiB"
    assert answers(server, queries, exact=True) == expected
    assert server.ok("POST", "/collections/c/points/count", {})["count"] == 1.8 * ROWS
    server.stop()
