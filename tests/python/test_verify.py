"""`proximadb storage verify` and `wal stats` against what find and du see (A17, E2, E4, E11, F9)."""

import json
import shutil
import subprocess
import uuid

import pytest

SPACE = {"vectors": {"size": 384, "distance": "Cosine"}}


@pytest.fixture
def stopped(servers, packages):
    """A stopped server with two collections: one with a segment and an index, one with a log only."""
    server = servers().start()
    for name, points in (("flushed", packages[:2500]), ("logged", packages[:50])):
        server.ok("PUT", f"/collections/{name}", SPACE)
        for start in range(0, len(points), 500):
            server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": points[start : start + 500]})
    server.ok("POST", "/collections/flushed/flush")
    server.stop()
    return server


def verify(server, code):
    done = server.command("storage", "verify", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def findings(report):
    return [finding for section in report["sections"] for finding in section["findings"]]


def on_disk(root):
    """Directories of collections, files and bytes below a root, counted by find and du."""
    command = f"find '{root}' -mindepth 1 -maxdepth 1 -type d -not -name _proximadb"
    directories = subprocess.check_output(command, shell=True, text=True).split()
    files = "".join(
        subprocess.check_output(["find", directory, "-type", "f", "-print0"], text=True) for directory in directories
    )
    if not files:
        return len(directories), 0, 0
    total = subprocess.check_output(["du", "-bc", "--files0-from=-"], input=files, text=True).splitlines()[-1]
    return len(directories), files.count("\0"), int(total.split()[0])


def test_a17_e4_the_numbers_equal_find_and_du_and_the_verdict_is_success(stopped):
    report = verify(stopped, 0)
    assert (report["damaged"], report["result"]) == (0, "SUCCESS")
    assert [section["component"] for section in report["sections"]] == ["wal", "viper", "lsm", "index", "metadata"]
    for section in report["sections"]:
        assert section["settings"]["urls"] == 3
        assert {"distribution_strategy", "collection_affinity"} < set(section["settings"])
        for root in section["roots"]:
            numbers = root["collection_directories"], root["files"], root["bytes"]
            assert numbers == on_disk(stopped.path(root["url"])), root
    text = stopped.command("storage", "verify").stdout
    wal = report["sections"][0]
    assert f"total: {wal['bytes']:,} bytes ({wal['bytes'] / 2**20:.2f} MB)" in text
    assert f"files: {wal['files']}" in text and text.count("SUCCESS") == 6 and "FAIL" not in text


@pytest.mark.parametrize("component, suffix", [("wal", ".avro"), ("viper", ".parquet"), ("viper", ".json"), ("metadata", ".json")])
def test_a17_a_broken_file_makes_it_fail_and_is_left_as_it_is(stopped, component, suffix):
    file = next(f for f in stopped.files(component, suffix) if "_proximadb" not in f.parts)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    report = verify(stopped, 3)
    assert report["damaged"] == 1 and report["result"] == "FAIL"
    (finding,) = findings(report)
    assert finding["kind"] == "damaged" and file == stopped.path(finding["root"]) / finding["path"]
    assert finding["problem"] and finding["advice"]
    assert file.read_bytes() == content
    assert "FAIL" in stopped.command("storage", "verify").stdout


def test_a_deleted_segment_is_missing(stopped):
    segment = stopped.files("viper", ".parquet")[0]
    segment.unlink()
    (finding,) = findings(verify(stopped, 3))
    assert finding["kind"] == "missing" and finding["path"].endswith(segment.name)


def test_e2_e11_orphans_strays_and_duplicates_are_warnings(stopped):
    segment = stopped.files("viper", ".parquet")[0]
    shutil.copy(segment, segment.with_name(f"{uuid.uuid4()}.parquet"))
    (stopped.path(stopped.urls["wal"][0]) / "readme.txt").write_text("mine")
    home = segment.parent.parent
    elsewhere = next(path for path in map(stopped.path, stopped.urls["viper"]) if path != home.parent)
    shutil.copytree(home, elsewhere / home.name)
    report = verify(stopped, 0)
    assert sorted(finding["kind"] for finding in findings(report)) == ["duplicate", "orphan", "stray"]
    assert report["damaged"] == 0 and report["warnings"] == 3


def test_it_refuses_beside_a_running_server(stopped):
    stopped.start()
    done = stopped.command("storage", "verify")
    assert done.returncode == 2 and "another process" in done.stderr


def test_f9_wal_stats_equal_the_disk(stopped):
    done = stopped.command("wal", "stats", "--json")
    assert done.returncode == 0, done.stderr
    logs = {log["collection"]: log for log in json.loads(done.stdout)["logs"]}
    assert set(logs) == {"flushed", "logged"} and logs["logged"]["entries"] == 50
    totals = [on_disk(stopped.path(url)) for url in stopped.urls["wal"]]
    assert sum(log["files"] for log in logs.values()) == sum(files for _, files, _ in totals)
    assert sum(log["bytes"] for log in logs.values()) == sum(size for _, _, size in totals)
