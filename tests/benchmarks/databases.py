"""ProximaDB's server next to the vector databases that install from PyPI: one run, one client process, the same rows, queries and filters.

    python3 -m venv target/databases; target/databases/bin/pip install numpy==2.4.6 pyarrow==26.0.1 orjson==3.13.0 chromadb==1.5.9 lancedb==0.40.0
    cargo build --release --workspace
    target/databases/bin/python tests/benchmarks/databases.py target/release/proximadb packages-40k.parquet packages-queries.parquet

Each is used through its own API with the settings that its documentation recommends: chromadb and lancedb within the client process, ProximaDB over
HTTP with orjson. One client asks one query at a time. Speed is at a recall@10 on the line between the two nearest efforts of the search; filters
are ranges over a number that has nothing to do with the vectors. Ingest ends when all rows are durable, searchable and indexed. A cold start
is a new process, from its first line behind the imports (ProximaDB: from its birth) to its first answer. A real Qdrant does not install from PyPI.
"""

import argparse
import http.client
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

K, BATCH = 10, 500
TARGETS = (0.95, 0.99)
# Rows of a thousand that a filter leaves.
SELECTIVITIES = (500, 100, 10, 1)


def vectors(path):
    column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
    return np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), -1)


class ProximaDB:
    efforts = (6, 12, 25, 50, 100, 200, 400)

    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def open(self):
        keys = {"STORAGE__URLS": f"file://{self.directory}/db", "SERVER__LISTEN": f"127.0.0.1:{self.port}"}
        variables = {f"PROXIMADB__{key}": value for key, value in keys.items()}
        log = open(f"{self.directory}/log", "a")
        self.process = subprocess.Popen([self.binary, "serve"], env=os.environ | variables, stderr=log, cwd=self.directory)
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.connection.connect()
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return self
            except ConnectionRefusedError:
                time.sleep(0.002)

    def send(self, method, path, body=None):
        body = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        self.connection.request(method, f"/collections/bench{path}", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        result = orjson.loads(answer.read())
        assert answer.status == 200, result
        return result["result"]

    def ingest(self, rows, numbers):
        self.send("PUT", "", {"vectors": {"size": rows.shape[1], "distance": "Cosine"}})
        for start in range(0, len(rows), BATCH):
            batch = zip(range(start, start + BATCH), rows[start : start + BATCH], numbers[start : start + BATCH].tolist())
            points = [{"id": n, "vector": row, "payload": {"number": number}} for n, row, number in batch]
            self.send("PUT", "/points?wait=true", {"points": points})
        self.send("POST", "/flush")
        self.send("POST", "/compact")
        while self.send("GET", "")["indexed_vectors_count"] < len(rows):
            time.sleep(0.01)

    def search(self, query, effort, below=None):
        body = {"query": query, "limit": K, "params": {"hnsw_ef": effort}}
        if below:
            body["filter"] = {"must": [{"key": "number", "range": {"lt": below}}]}
        return [point["id"] for point in self.send("POST", "/points/query", body)["points"]]

    def cold(self, query):
        start = time.perf_counter()
        self.open().search(query, self.efforts[4])
        return time.perf_counter() - start

    def close(self):
        self.process.terminate()
        self.process.wait()


class Chroma:
    efforts = (10, 20, 40, 80, 160, 320)

    def __init__(self, directory):
        self.directory, self.effort = directory, None

    def open(self):
        import chromadb

        self.client = chromadb.PersistentClient(self.directory, chromadb.Settings(anonymized_telemetry=False))
        hnsw = {"space": "ip", "ef_construction": 128, "max_neighbors": 16}
        self.collection = self.client.get_or_create_collection("bench", configuration={"hnsw": hnsw}, embedding_function=None)
        return self

    def ingest(self, rows, numbers):
        size = self.client.get_max_batch_size()
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            ids = [str(n) for n in range(len(rows))[part]]
            self.collection.add(ids=ids, embeddings=rows[part], metadatas=[{"number": n} for n in numbers[part].tolist()])

    def search(self, query, effort, below=None):
        if effort != self.effort:
            self.collection.modify(configuration={"hnsw": {"ef_search": effort}})
            self.effort = effort
        where = {"number": {"$lt": below}} if below else None
        found = self.collection.query(query_embeddings=[query], n_results=K, where=where, include=[])
        return [int(n) for n in found["ids"][0]]

    def close(self):
        pass


class Lance:
    efforts = tuple((probes, refine) for refine in (5, 20) for probes in (2, 5, 10, 20, 40, 80))

    def __init__(self, directory):
        self.directory = directory

    def open(self):
        import lancedb

        self.database = lancedb.connect(self.directory)
        if "bench" in self.database.list_tables().tables:
            self.table = self.database.open_table("bench")
        return self

    def ingest(self, rows, numbers):
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        table = pa.table({"id": pa.array(range(len(rows))), "number": pa.array(numbers), "vector": column})
        self.table = self.database.create_table("bench", table)
        self.table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_PQ")
        self.table.create_scalar_index("number")
        for index in self.table.list_indices():
            self.table.wait_for_index([index.name])

    def search(self, query, effort, below=None):
        probes, refine = effort
        search = self.table.search(query).metric("dot").nprobes(probes).refine_factor(refine).limit(K).select(["id", "_distance"])
        search = search.where(f"number < {below}", prefilter=True) if below else search
        return search.to_arrow()["id"].to_pylist()

    def close(self):
        pass


def curve(database, queries, truth, below=None):
    """(recall, QPS) of each effort; those that neither find more nor are faster than another are left out."""
    points = []
    for effort in database.efforts:
        database.search(queries[0], effort, below)
        start = time.perf_counter()
        found = [database.search(query, effort, below) for query in queries]
        seconds = time.perf_counter() - start
        hits = sum(len(set(ids) & set(true)) for ids, true in zip(found, truth))
        points.append((hits / sum(map(len, truth)), len(queries) / seconds))
    return sorted(p for p in points if not any(o[0] >= p[0] and o[1] > p[1] for o in points))


def at(points, target):
    """QPS at a recall, between the two nearest efforts."""
    for (low, slow), (high, fast) in zip(points, points[1:]):
        if low < target <= high:
            return f"{slow + (fast - slow) * (target - low) / (high - low):,.0f}"
    return f"{points[0][1]:,.0f}" if points[0][0] >= target else "not reached"


def exact(rows, queries, numbers, below):
    scores = queries @ rows.T
    scores[:, numbers >= below] = -np.inf
    return np.argsort(-scores, axis=1)[:, : min(K, int((numbers < below).sum()))].tolist()


def cold(name, directory, arguments):
    """Seconds of a new process to its first answer; it calls this program for a library."""
    command = [sys.executable, __file__, arguments.binary, arguments.rows, arguments.queries, "--cold", name, directory]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def cold_library(name, directory, query):
    database = {"chromadb": Chroma, "lancedb": Lance}[name](directory)
    __import__(name)
    start = time.perf_counter()
    database.open().search(query, database.efforts[2])
    print(time.perf_counter() - start)


def measure(name, database, rows, queries, numbers):
    database.open()
    start = time.perf_counter()
    database.ingest(rows, numbers)
    seconds = time.perf_counter() - start
    speed = curve(database, queries, exact(rows, queries, numbers, 1_000))
    cells = [name, f"{len(rows) / seconds:,.0f}"] + [at(speed, target) for target in TARGETS]
    for below in SELECTIVITIES:
        cells.append(at(curve(database, queries, exact(rows, queries, numbers, below), below), TARGETS[0]))
    database.close()
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("rows")
    parser.add_argument("queries")
    parser.add_argument("--count", type=int, default=100, help="so many of the queries")
    parser.add_argument("--only", nargs="*", choices=["ProximaDB", "chromadb", "lancedb"], help="default: all")
    parser.add_argument("--cold", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    queries = vectors(arguments.queries)[: arguments.count]
    if arguments.cold:
        return cold_library(*arguments.cold, queries[0])
    rows = vectors(arguments.rows)
    numbers = np.random.default_rng(1).permutation(len(rows)) % 1_000
    print(f"{len(rows):,} x {rows.shape[1]}, {len(queries)} queries, load {os.getloadavg()[0]:.1f}")
    print("| database | rows/s | QPS @ 0.95 | QPS @ 0.99 | 50 % @ 0.95 | 10 % | 1 % | 0.1 % | cold start s |\n|" + " --- |" * 9)
    binary = str(pathlib.Path(arguments.binary).resolve())
    databases = {"ProximaDB": lambda path: ProximaDB(binary, path), "chromadb": Chroma, "lancedb": Lance}
    for name in arguments.only or databases:
        make = databases[name]
        with tempfile.TemporaryDirectory() as directory:
            database = make(directory)
            cells = measure(name, database, rows, queries, numbers)
            if name == "ProximaDB":
                seconds = database.cold(queries[0])
                database.close()
            else:
                seconds = cold(name, directory, arguments)
            print("| " + " | ".join([*cells, f"{seconds:.2f}"]) + " |", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
