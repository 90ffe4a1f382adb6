"""Stock readers open every file, and files stay where they belong (issue 2, Shows 5; F1, G6, G7, B10, A11)."""

import re
import shutil
import subprocess

import fastavro
import pyarrow.parquet as pq
import pytest

SPACE = {"vectors": {"size": 384, "distance": "Cosine"}}


def upsert(server, name, points):
    for start in range(0, len(points), 500):
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": points[start : start + 500]})


def test_f1_a_stock_avro_reader_reads_every_record_of_every_log_file(servers, packages):
    server = servers(keys={"wal": {"memory_flush_size_bytes": 1 << 30}}).start()
    server.ok("PUT", "/collections/p", SPACE)
    upsert(server, "p", packages[:1500])
    server.ok("POST", "/collections/p/points/delete?wait=true", {"points": [packages[0]["id"]]})
    server.stop()
    records = []
    for file in server.files("wal", ".avro"):
        with open(file, "rb") as stream:
            reader = fastavro.reader(stream)
            assert reader.metadata["avro.codec"] == "snappy"
            assert any(key.startswith("proximadb.") for key in reader.metadata)
            records += list(reader)
    assert [record["seq"] for record in records] == list(range(1, 1502))
    upserts = {record["id"]: record for record in records if record["op"] == "UPSERT"}
    assert set(upserts) == {str(package["id"]) for package in packages[:1500]}
    assert records[-1]["op"] == "DELETE"
    assert len(upserts["0"]["vectors"][""]) == 384
    server.start()
    assert server.ok("POST", "/collections/p/points/count", {})["count"] == 1499


def test_g6_a_stock_parquet_reader_counts_the_same_rows_as_the_api(servers, packages):
    server = servers().start()
    server.ok("PUT", "/collections/p", SPACE)
    server.ok("PUT", "/collections/p/index?wait=true", {"field_name": "section", "field_schema": "keyword"})
    upsert(server, "p", packages)
    upsert(server, "p", packages[:200])
    server.ok("POST", "/collections/p/points/delete?wait=true", {"points": [p["id"] for p in packages[:50]]})
    server.ok("POST", "/collections/p/flush")
    server.ok("POST", "/collections/p/compact")
    count = server.ok("POST", "/collections/p/points/count", {})["count"]
    assert count == 4950
    tables = [pq.read_table(file, page_checksum_verification=True) for file in server.files("viper", ".parquet")]
    assert sum(table.num_rows for table in tables) == count
    payloads = {package["id"]: package["payload"] for package in packages}
    for table in tables:
        assert {"id", "seq", "vector", "payload", "payload.section"} <= set(table.column_names)
        first = table.slice(0, 1).to_pylist()[0]
        assert first["payload.section"] == payloads[int(first["id"])]["section"]
        assert len(first["vector"]) == 384
    wal_records = 0
    for file in server.files("wal", ".avro"):
        with open(file, "rb") as stream:
            wal_records += sum(1 for _ in fastavro.reader(stream)) if file.stat().st_size else 0
    assert wal_records == 0, "the log is released once its operations are in segments"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; ./test installs it where it can")
def test_g7_b10_flush_and_compaction_rename_inside_the_assigned_root_and_write_nowhere_else(servers, packages, tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=rename,renameat,renameat2,link,linkat,open,openat,creat,mkdir,mkdirat,unlink,unlinkat"
    server = servers().start(wrapper=["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", calls, "-e", "signal=none"])
    server.ok("PUT", "/collections/p", SPACE)
    upsert(server, "p", packages)
    server.ok("POST", "/collections/p/flush")
    server.ok("POST", "/collections/p/compact")
    server.ok("DELETE", "/collections/p")
    server.process.terminate()
    server.process.wait(timeout=60)
    roots = [server.path(url) for urls in server.urls.values() for url in urls]
    inside = lambda path: next((str(root) for root in roots if path == str(root) or path.startswith(f"{root}/")), None)
    moves = 0
    for line in trace.read_text().splitlines():
        paths = re.findall(r'"([^"]*)"', line)
        if re.search(r"\b(rename|renameat|renameat2|link|linkat)\(", line) and "= 0" in line:
            moves += 1
            assert inside(paths[0]) and inside(paths[0]) == inside(paths[1]), line
        elif re.search(r"O_WRONLY|O_RDWR|O_CREAT|\bmkdir|\bcreat\(", line) and paths:
            allowed = inside(paths[0]) or paths[0].startswith("/dev/") or any(str(root).startswith(paths[0]) for root in roots)
            assert allowed, f"a write outside of the configured URLs: {line}"
    assert moves > 0, "the trace saw flushes"
