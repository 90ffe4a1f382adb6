"""Makes the binary seeds of the fuzz targets anew, after a format has changed: `fuzz/seeds.py target/release/proximadb`.

Those of `request` and `config` are texts, written by hand.
"""

import json
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

SEEDS = pathlib.Path(__file__).parent / "seeds"
SEPARATOR = b"\n%%\n"
COLLECTION = "0198c5b1-0000-7000-8000-000000000001"
SEGMENT = "0198c5b1-0000-7000-8000-000000000002"
DESCRIPTION = {
    "id": COLLECTION, "name": "packages", "created_at_ms": 1,
    "schema": {"vectors": {"": {"size": 4, "distance": "Dot"}, "title": {"size": 2, "distance": "Cosine"}}},
}


def write(name, *parts):
    path = SEEDS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(SEPARATOR.join(parts))


def text(value):
    return json.dumps(value, separators=(",", ":")).encode()


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def long(value):
    return varint(value << 1)


def string(value):
    return long(len(value)) + value


def log_seeds(avro_file):
    write("wal/file", avro_file)
    schema_at = avro_file.index(b"avro.schema") + len("avro.schema")
    schema = avro_file[avro_file.index(b"{", schema_at):avro_file.index(b"avro.codec") - 1]
    for name, author in [("block", []), ("object", [("writer", COLLECTION), ("epoch", "1"), ("fence", "0")])]:
        version = "3" if author else "2"
        fields = [("avro.schema", schema), ("avro.codec", b"snappy")]
        own = [("format_version", version), ("description", json.dumps(DESCRIPTION)), ("shard", "000"), ("first_seq", "1"), ("previous_seq", "0"),
               ("acknowledged", "0"), ("lanes", "1"), *author]
        fields += [(f"proximadb.{key}", value.encode()) for key, value in own]
        header = bytes([len(fields)]) + b"".join(string(key.encode()) + string(value) for key, value in fields)
        floats = long(2) + struct.pack("<2f", 0.5, -1) + long(0)
        upsert = long(0) + string(b"7") + long(2) + string(b"") + floats + string(b"title") + floats + long(0) + string(b'{"n":1}')
        delete = long(1) + string(SEGMENT.encode()) + long(0) + string(b"")
        first = bytes([2]) + long(0) + long(1) + upsert + long(0) + long(2) + delete
        write(f"wal/avro-{name}", b"\0" + header, first, *([] if author else [bytes([1]) + long(2) + long(3) + upsert, bytes([0]) + long(3)]))

        def text64(value):
            return struct.pack("<Q", len(value)) + value

        header = struct.pack("<I", int(version)) + text64(json.dumps(DESCRIPTION).encode()) + text64(b"000") + struct.pack("<3QI", 1, 0, 0, 1)
        if author:
            header += bytes(16) + struct.pack("<2Q", 1, 0)
        floats = struct.pack("<Q2f", 2, 0.5, -1)
        upsert = struct.pack("<IIQQ", 0, 0, 7, 2) + text64(b"") + floats + text64(b"title") + floats + text64(b'{"n":1}')
        delete = struct.pack("<II", 1, 1) + bytes(range(16))
        first = bytes([2]) + struct.pack("<2Q", 0, 1) + upsert + struct.pack("<Q", 2) + delete
        more = [bytes([1]) + struct.pack("<2Q", 2, 3) + upsert, bytes([0]) + struct.pack("<Q", 3)]
        write(f"wal/bincode-{name}", b"\1" + header, first, *([] if author else more))


def codes(count, coordinates=16):
    return b"".join(bytes((row * 7 + at) % 256 for at in range(coordinates)) + struct.pack("<2f", 0.5, -row) for row in range(count))


def graph(nodes, m=4):
    counts = [nodes, -(-nodes // m)]
    while counts[-1] > m:
        counts.append(-(-counts[-1] // m))
    lists = lambda count, size: b"".join(struct.pack(f"<{size}I", *((node + at + 1) % count for at in range(size))) for node in range(count))
    upper = b"".join(lists(count, m) for count in counts[1:])
    return struct.pack(f"<{2 + counts[1]}I", m, nodes, *range(counts[1])) + lists(nodes, 2 * m) + upper


def index(kind, metric, dim, rows, body):
    return b"PXMINDEX" + struct.pack("<HBBII", 2, kind, metric, dim, rows) + body


def ivf(kind, sorted_rows, metric=1, rows=96, dim=4, lists=4, outliers=2):
    members = rows - outliers
    bounds = [list * members // lists for list in range(lists + 1)]
    body = struct.pack("<4I", lists, members, outliers, int(not sorted_rows)) + struct.pack("<5f", 1, 2, 1, 0.1, 3)
    body += struct.pack(f"<{dim}f", *range(dim))
    block = 0
    for start, end in zip(bounds, bounds[1:]):
        body += struct.pack("<3I2f", start, end, block, 4, 1)
        block += -(-(end - start) // 16)
    if not sorted_rows:
        body += struct.pack(f"<{members}I", *reversed(range(members)))
    body += struct.pack(f"<{outliers}I", *range(members, rows)) + codes(lists)
    factors = struct.pack("<16f", *[1] * 16) + struct.pack("<16f", *[0] * 16) + struct.pack("<16f", *[0.5] * 16)
    # Four bits for each of 16 coordinates: two strips of 64 bytes.
    body += (bytes(range(128)) + factors) * block + codes(members)
    return index(kind, metric, dim, rows, body + (graph(lists) if kind == 3 else b""))


def hnsw(metric, rows=96, dim=4):
    body = struct.pack("<5f", 16, 32, 100, 0.1, 3) + struct.pack("<2I", 1, rows - 1) + struct.pack(f"<{dim}f", *range(dim))
    return index(2, metric, dim, rows, body + graph(rows) + codes(rows))


def index_seeds():
    identity = {"collection": DESCRIPTION, "shard": "000", "segment": SEGMENT, "segment_crc32": 1, "segment_rows": 96}
    kinds = {"ivf": ivf(1, False), "sorted": ivf(1, True, metric=0), "hybrid": ivf(3, False, metric=2), "hnsw": hnsw(1), "dot": hnsw(0)}
    for name, bytes_ in kinds.items():
        write(f"index_files/{name}", b"\0" + bytes_)
    for kind, (extension, one) in enumerate([("ivf", kinds["ivf"]), ("hnsw", kinds["hnsw"])]):
        part = {"space": "", "type": extension, "bytes": 0, "head_bytes": 1 << 20}
        write(f"index_files/file-{extension}", bytes([2 + kind]) + text({"of": identity, "parts": [part]}), one)
    rows = 6
    parts = [
        ("ids", b"".join(bytes([0]) + struct.pack("<2Q", row, 0) for row in range(rows - 1)) + bytes([1]) + bytes(range(16))),
        ("seqs", struct.pack(f"<{rows}Q", *range(1, rows + 1))),
        ("tombstones", b"AQEFAAA"),
        ({"clusters": ""}, struct.pack("<3I", 0, 3, 6)),
        ({"present": "title"}, struct.pack("<Q", 0b101011)),
        ("payload_offsets", struct.pack(f"<{rows + 1}Q", *(7 * row for row in range(rows + 1)))),
        ("payloads", b'{"n":1}' * rows),
        ({"vectors": ""}, struct.pack(f"<{4 * rows}f", *range(4 * rows))),
        ({"vectors": "title"}, struct.pack(f"<{2 * rows}f", *range(2 * rows))),
    ]
    header = {"of": identity | {"segment_rows": rows}, "parts": [{"content": content, "bytes": 0} for content, _ in parts]}
    write("index_files/rows", b"\4" + text(header), *(part for _, part in parts))


def real_files(binary):
    """A log, a segment and the records of a collection of a few points."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = pathlib.Path(directory) / "config.toml"
        config.write_text(f'[server]\nlisten = "127.0.0.1:{port}"\n[storage]\nurls = ["file://{directory}/data"]\n')
        server = subprocess.Popen([binary, "serve", "--config", config])

        def send(method, path, body=None):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/collections/packages{path}", method=method)
            request.add_header("content-type", "application/json")
            urllib.request.urlopen(request, None if body is None else text(body)).read()

        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
                break
            except OSError:
                time.sleep(0.1)
        send("PUT", "", {"vectors": DESCRIPTION["schema"]["vectors"]})
        send("PUT", "/index", {"field_name": "n", "field_schema": "integer"})
        points = [{"id": n, "vector": {"": [n, 1, 2, 3], "title": [1, n]}, "payload": {"n": n, "s": "text"}} for n in range(1, 7)]
        points.append({"id": SEGMENT, "vector": {"": [1, 1, 1, 1]}})
        send("PUT", "/points", {"points": points})
        log = next(pathlib.Path(directory).glob("data/wal/*/000/*.avro")).read_bytes().rstrip(b"\0")
        send("POST", "/flush")
        send("POST", "/points/delete", {"points": [2, SEGMENT]})
        send("POST", "/flush")
        server.send_signal(signal.SIGTERM)
        server.wait()
        data = pathlib.Path(directory) / "data"
        segments = [path.read_bytes() for path in sorted(data.glob("viper/*/000/*.parquet"))]
        manifests = sorted(data.glob("viper/*/000/manifest/*.json"))
        records = [path for path in sorted(data.glob("metadata/*/*.json")) if "-" in path.parent.name]
        sealed = [path.read_bytes() for path in (manifests[-1], records[-1])]
    record = lambda file: file[file.index(b'"record":') + len('"record":'):-1]
    return log, segments, [record(file) for file in sealed]


def main():
    log, segments, records = real_files(sys.argv[1])
    log_seeds(log)
    index_seeds()
    for name, record in zip(["manifest", "collection"], records):
        write(f"manifest/{name}", b"r" + record)
    for number, segment in enumerate(segments):
        write(f"manifest/segment-{number}", b"s" + segment)


main()
