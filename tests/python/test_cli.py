"""The command line as a user meets it: quickstart, import and export, reports, exit codes (issue 2; A14, D10, F9, K7)."""

import json
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import BINARY, SAMPLE, free_port


def run(*arguments, code=0):
    result = subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def test_quickstart_shows_a_newcomer_around_and_ends_when_asked(tmp_path):
    out = run("quickstart", "--directory", tmp_path / "qs", "--listen", f"127.0.0.1:{free_port()}", "--exit").stdout
    for words in ("Imported 5000 package descriptions", "Packages like postgresql:", "only section = libs", "Where it lives", "What to try next"):
        assert words in out
    assert sum(f"disk{disk}/" in out for disk in (1, 2, 3)) >= 2, "components live on several roots"
    again = run("quickstart", "--directory", tmp_path / "qs", "--listen", f"127.0.0.1:{free_port()}", "--exit").stdout
    assert "5000 were here already" in again


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "npy", "fvecs"])
def test_what_is_exported_can_be_imported_again(servers, tmp_path, extension):
    server = servers().start()
    url = f"http://127.0.0.1:{server.port}"
    done = json.loads(run("import", SAMPLE, "--collection", "a", "--url", url, "--json").stdout)
    assert done["points"] == 5000
    file = tmp_path / f"points.{extension}"
    assert json.loads(run("export", file, "--collection", "a", "--url", url, "--json").stdout)["points"] == 5000
    run("import", file, "--collection", "b", "--url", url)
    scroll = lambda name: server.ok("POST", f"/collections/{name}/points/scroll", {"limit": 5000, "with_vector": True})["points"]
    a, b = scroll("a"), scroll("b")
    np.testing.assert_allclose([p["vector"] for p in a], [p["vector"] for p in b], atol=1e-6)
    if extension in ("parquet", "jsonl"):
        assert [(p["id"], p["payload"]) for p in a] == [(p["id"], p["payload"]) for p in b]
    if extension == "npy":
        assert np.load(file).shape == (5000, 384)
    if extension == "parquet":
        assert pq.read_table(file).num_rows == 5000


def test_an_interrupted_import_resumes_with_what_is_missing(servers):
    server = servers().start()
    url = f"http://127.0.0.1:{server.port}"
    run("import", SAMPLE, "--collection", "c", "--url", url)
    server.ok("POST", "/collections/c/points/delete?wait=true", {"points": list(range(100, 200))})
    done = json.loads(run("import", SAMPLE, "--collection", "c", "--url", url, "--resume", "--json").stdout)
    assert (done["points"], done["skipped"]) == (100, 4900)


def test_reports_are_the_same_from_a_running_server_and_from_its_files(servers, packages):
    server = servers().start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": 384, "distance": "Cosine"}})
    server.ok("PUT", "/collections/c/points?wait=true", {"points": packages[:100]})
    running = {}
    for command in ("roots", "assignments", "stats"):
        running[command] = json.loads(server.command("storage", command, "--json").stdout)
    assert server.command("storage", "verify").returncode == 2, "the files are not read beside a server"
    assert server.command("wal", "dump").returncode == 2
    server.stop()
    roots = json.loads(server.command("storage", "roots", "--json").stdout)["roots"]
    assert [r["url"] for r in roots] == [r["url"] for r in running["roots"]["roots"]]
    for root in roots:
        files = [f for f in server.path(root["url"]).rglob("*") if f.is_file() and "_proximadb" not in f.parts]
        assert (root["files"], root["bytes"]) == (len(files), sum(f.stat().st_size for f in files)), root
    assignments = json.loads(server.command("storage", "assignments", "--json").stdout)["assignments"]
    assert {a["component"] for a in assignments} == {"wal", "viper", "lsm", "index", "metadata"}
    text = server.command("storage", "assignments").stdout
    assert "storage_url" in text and server.urls["wal"][0] in text
    wal = json.loads(server.command("wal", "stats", "--json").stdout)["logs"]
    assert [(log["collection"], log["entries"], log["last_seq"]) for log in wal] == [("c", 100, 100)]
    lines = server.command("wal", "dump").stdout.splitlines()
    assert len(lines) == 100 and json.loads(lines[0])["op"] == "UPSERT"


def test_wrong_usage_and_configuration_end_with_2_and_one_line(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("[storage.wal_config]\nwal_ursl = []\n")
    for command in (["serve"], ["config", "check"], ["config", "show"]):
        error = run(*command, "--config", bad, code=2).stderr
        assert "wal_ursl" in error and "wal_urls" in error
    run("serve", "--nonsense", code=2)
    good = tmp_path / "good.toml"
    good.write_text(f'[storage]\nurls = ["file://{tmp_path}/data"]\n')
    assert "valid" in run("config", "check", "--config", good).stdout
    shown = json.loads(run("config", "show", "--json", "--config", good).stdout)
    assert shown["storage.wal_config.memory_flush_size_bytes"]["value"] == 1048576
    assert not (tmp_path / "data").exists(), "checking and showing write nothing"
    run("import", tmp_path / "none.parquet", "--collection", "c", code=1)
