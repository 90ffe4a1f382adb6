"""AXIS next to the libraries that users would pick instead: one run, one thread, the same vectors, exact ground truth.

    pip install numpy pyarrow hnswlib usearch faiss-cpu
    cargo build --release -p proximadb-index --example measure
    python tests/benchmarks/peers.py target/release/examples/measure packages-40k.parquet packages-queries.parquet

Vectors are the `vector` column of a Parquet file, or a .npy file as `datasets.py` makes (with `--metric l2` for pixels and clusters). Speed is queries a second of one thread by its CPU time, queries one at a
time, so that other load on the machine changes it little (caches and memory are still shared: compare within a run). Each library is swept
over its own search setting; the table has the speed at recall@10 0.95 and 0.99, on the line between the two nearest settings.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import faiss
import hnswlib
import numpy as np
import pyarrow.parquet as pq
from usearch.index import Index

K = 10
TARGETS = (0.95, 0.99)
FAISS_METRIC = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
EFS = (10, 15, 20, 30, 40, 60, 80, 120, 200)


def vectors(path):
    if path.endswith(".npy"):
        return np.load(path)
    column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
    return np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), -1)


def sweep(settings, search, queries, truth):
    """(recall, QPS) of each setting; `search(setting, query)` returns the ids of one query."""
    curve = []
    for setting in settings:
        found, start = [], time.thread_time()
        for query in queries:
            found.append(search(setting, query))
        seconds = time.thread_time() - start
        hits = sum(len(np.intersect1d(ids, true)) for ids, true in zip(found, truth))
        curve.append((hits / truth.size, len(queries) / seconds))
    return curve


def at(curve, target):
    """QPS at a recall, between the two nearest settings; None if it is not reached."""
    curve = sorted(curve)
    for (low, slow), (high, fast) in zip(curve, curve[1:]):
        if low < target <= high:
            return slow + (fast - slow) * (target - low) / (high - low)
    return curve[0][1] if curve[0][0] >= target else None


def timed(build):
    start = time.process_time()
    index = build()
    return index, time.process_time() - start


def nearest(metric, base, queries):
    """Row numbers of the K nearest of each query, exactly."""
    lengths = (base**2).sum(axis=1) if metric == "l2" else None
    found = []
    for few in np.array_split(queries, max(1, len(queries) // 100)):
        products = few @ base.T
        distances = -products if lengths is None else lengths - 2 * products
        found.append(np.argpartition(distances, K, axis=1)[:, :K])
    return np.concatenate(found)


def ours(binary, kind, metric, base, queries):
    with tempfile.TemporaryDirectory() as directory:
        files = [pathlib.Path(directory, name) for name in ("base.f32", "queries.f32")]
        base.tofile(files[0])
        queries.tofile(files[1])
        output = subprocess.run([binary, kind, {"ip": "dot", "l2": "euclidean"}[metric], str(base.shape[1]), *files], check=True, capture_output=True, text=True).stdout
    first, *lines = [json.loads(line) for line in output.splitlines()]
    curve = [(line["recall"], line["qps"]) for line in lines]
    # The rows of a segment are sorted by k-means whatever its index; only lists need that.
    sorting = first["kmeans_cpu_s"] if kind == "ivf" else 0
    return curve, sorting + first["build_cpu_s"], first["bytes_per_vector"] + base.shape[1] * 4


def hnswlib_peer(metric, base, queries, truth):
    index = hnswlib.Index(metric, base.shape[1])
    index.init_index(len(base), M=16, ef_construction=128)
    index.set_num_threads(1)
    _, seconds = timed(lambda: index.add_items(base))

    def search(ef, query):
        index.set_ef(ef)
        return index.knn_query(query, K, num_threads=1)[0][0]

    return sweep(EFS, search, queries, truth), seconds, index.index_file_size() / len(base)


def usearch_peer(metric, base, queries, truth):
    index = Index(ndim=base.shape[1], metric={"ip": "ip", "l2": "l2sq"}[metric], dtype="bf16", connectivity=16, expansion_add=128)
    _, seconds = timed(lambda: index.add(np.arange(len(base)), base, threads=1))

    def search(ef, query):
        index.expansion_search = ef
        return index.search(query, K, threads=1).keys

    return sweep(EFS, search, queries, truth), seconds, index.memory_usage / len(base)


def faiss_hnsw(metric, base, queries, truth):
    index = faiss.IndexHNSWFlat(base.shape[1], 16, FAISS_METRIC[metric])
    index.hnsw.efConstruction = 128
    _, seconds = timed(lambda: index.add(base))

    def search(ef, query):
        index.hnsw.efSearch = ef
        return index.search(query[None], K)[1][0]

    return sweep(EFS, search, queries, truth), seconds, base.shape[1] * 4 + 270


def faiss_ivf_pq(metric, base, queries, truth):
    lists = int(2 * len(base) ** 0.5)
    dim = base.shape[1]
    index = faiss.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs,RFlat", FAISS_METRIC[metric])

    def build():
        index.train(base)
        index.add(base)

    _, seconds = timed(build)
    inner = faiss.extract_index_ivf(index)

    def search(setting, query):
        inner.nprobe, index.k_factor = setting
        return index.search(query[None], K)[1][0]

    settings = [(probes, factor) for factor in (2, 4, 8) for probes in (4, 8, 12, 16, 24, 32, 48, 64, 96)]
    curve = sweep(settings, search, queries, truth)
    # The best of both settings for each recall.
    best = [point for point in curve if not any(other[0] >= point[0] and other[1] > point[1] for other in curve)]
    return best, seconds, dim // 4 + dim * 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure")
    parser.add_argument("base")
    parser.add_argument("queries")
    parser.add_argument("--metric", choices=["ip", "l2"], default="ip")
    arguments = parser.parse_args()
    metric = arguments.metric
    base, queries = vectors(arguments.base), vectors(arguments.queries)
    truth = nearest(metric, base, queries)
    faiss.omp_set_num_threads(1)
    peers = {
        "ProximaDB AXIS IVF": lambda: ours(arguments.measure, "ivf", metric, base, queries),
        "ProximaDB AXIS HNSW": lambda: ours(arguments.measure, "hnsw", metric, base, queries),
        "hnswlib": lambda: hnswlib_peer(metric, base, queries, truth),
        "usearch bf16": lambda: usearch_peer(metric, base, queries, truth),
        "faiss HNSW16": lambda: faiss_hnsw(metric, base, queries, truth),
        "faiss IVF-PQ fast-scan, refined": lambda: faiss_ivf_pq(metric, base, queries, truth),
    }
    print(f"{len(base):,} × {base.shape[1]}, {metric}, {len(queries)} queries, load {open('/proc/loadavg').read().split()[0]}")
    print("| index | build CPU s | QPS @ 0.95 | QPS @ 0.99 | bytes a vector |\n| --- | --- | --- | --- | --- |")
    for name, run in peers.items():
        curve, seconds, size = run()
        qps = [f"{value:,.0f}" if (value := at(curve, target)) else "not reached" for target in TARGETS]
        print(f"| {name} | {seconds:.1f} | {qps[0]} | {qps[1]} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
