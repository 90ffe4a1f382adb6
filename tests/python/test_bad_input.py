"""Bad input gets a 4xx that says what is wrong, and nothing is written (issue 2, Bad input)."""

import json
import os
import shutil
import subprocess
import time

import pytest

SPACE = {"vectors": {"size": 4, "distance": "Dot"}}


def check(server, method, path, body, statuses, *words):
    status, answer = server.request(method, path, body)
    assert status in statuses, (method, path, status, answer)
    error = answer["status"]["error"] if isinstance(answer, dict) else answer
    for word in words:
        assert word in error, error


def test_every_kind_of_bad_input_is_refused_and_changes_nothing(servers):
    server = servers().start()
    server.ok("PUT", "/collections/c", SPACE)
    good = {"id": 1, "vector": [1, 2, 3, 4], "payload": {"a": 1}}
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [good]})

    points = "/collections/c/points?wait=true"
    upsert = lambda point: {"points": [{"id": 2, "vector": [1, 1, 1, 1]}, {**good, **point}]}
    check(server, "PUT", points, upsert({"vector": [1]}), {400}, "Wrong input: Vector dimension error: expected dim: 4, got 1")
    check(server, "PUT", points, '{"points":[{"id":2,"vector":[1,2,3,NaN]}]}', {400}, "Format error in JSON body")
    check(server, "PUT", points, '{"points":[{"id":2,"vector":[1,2,3,1e999]}]}', {400})
    check(server, "PUT", points, '{"points":[{"id":2,"vector":[1,2,3,1e39]}]}', {400, 422})
    for bad_id in (-1, 1.5, "x", "12", None, 18446744073709551616):
        check(server, "PUT", points, upsert({"id": bad_id}), {400})
    check(server, "PUT", points, upsert({"vector": {"other": [1, 2, 3, 4]}}), {400}, "Not existing vector name error: other")
    check(server, "PUT", "/collections/none/points", upsert({}), {404}, "Not found: Collection `none` doesn't exist!")
    check(server, "PUT", "/collections/c", SPACE, {409}, "Wrong input: Collection `c` already exists!")
    query = "/collections/c/points/query"
    check(server, "POST", query, {"query": [1, 2]}, {400}, "Wrong input: Vector dimension error: expected dim: 4, got 2")
    bad_filters = [{"must": [{"key": "a", "match": {"value": 1.5}}]}, {"musst": []}, {"must": [{"key": "a"}]},
                   {"must": [{"key": "a", "matsch": {"value": 1}}]}, {"must": [{"key": "a", "range": {"gt": "x"}}]}]
    for bad in bad_filters:
        check(server, "POST", query, {"query": [1, 2, 3, 4], "filter": bad}, {400})
        check(server, "POST", "/collections/c/points/delete?wait=true", {"filter": bad}, {400})
    check(server, "POST", query, "{", {400}, "Format error in JSON body")
    for size in (0, 65537, -1, "x"):
        check(server, "PUT", "/collections/new", {"vectors": {"size": size, "distance": "Dot"}}, {400, 422})
    check(server, "PUT", "/collections/new", {"vectors": {"size": 4, "distance": "Near"}}, {400})
    for name in ("..", "%2E%2E", "a%2Fb", "x" * 256, "a%00b", "%0A"):
        check(server, "PUT", f"/collections/{name}", SPACE, {400, 422})
    check(server, "PUT", "/collections/c/points", "x" * (33 << 20), {413})

    assert server.ok("GET", "/collections")["collections"] == [{"name": "c"}]
    scrolled = server.ok("POST", "/collections/c/points/scroll", {"with_vector": True})
    assert scrolled["points"] == [{"id": 1, "vector": [1.0, 2.0, 3.0, 4.0], "payload": {"a": 1}}]


def test_odd_but_legal_names_never_become_paths(servers):
    server = servers().start()
    for name in ("with%20space", "x" * 255, "%C3%BC%E4%B8%AD"):
        server.ok("PUT", f"/collections/{name}", SPACE)
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]})
        assert server.ok("POST", f"/collections/{name}/points/count", {})["count"] == 1
    assert len(server.ok("GET", "/collections")["collections"]) == 3
    server.stop()
    server.start()
    assert len(server.ok("GET", "/collections")["collections"]) == 3


def mount_tmpfs(path, size):
    path.mkdir(parents=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True).returncode == 0


@pytest.mark.parametrize("component", ["wal", "viper"])
def test_k3_a_full_disk_hurts_only_its_collections_and_recovers(servers, tmp_path, component):
    """A log goes on at another root and comes home; segments have one home, so writes are refused once memory is short."""
    small = tmp_path / "db" / "disk0"
    if not mount_tmpfs(small, "6m"):
        pytest.skip("mounting a tmpfs needs root")
    try:
        other = {c: [f"file://{tmp_path}/db/other/{c}"] for c in ("wal", "viper", "lsm", "index", "metadata")}
        urls = {**other, component: [f"file://{small}/{component}", f"file://{tmp_path}/db/disk1/{component}"]}
        server = servers(urls=urls, keys={component: {"distribution_strategy": "RoundRobin"}}).start()
        for name in ("full", "fine"):
            server.ok("PUT", f"/collections/{name}", {"vectors": {"size": 256, "distance": "Dot"}})
        batch = lambda n: {"points": [{"id": n * 500 + i, "vector": [float(i)] * 256} for i in range(500)]}
        log = lambda: {a["storage_url"] for a in server.ok("GET", "/storage/assignments?collection=full&component=wal")["assignments"]}
        # A flush in between empties the log, which then goes home and away again: where it was is asked after every batch.
        acknowledged, refused, written_to = 0, None, set()
        for n in range(120):
            status, answer = server.request("PUT", "/collections/full/points?wait=true", batch(n))
            if status != 200:
                refused = (status, answer)
                break
            acknowledged += 1
            written_to |= log()
        if component == "wal":
            assert refused is None and written_to == set(urls["wal"]), (refused, written_to)
        else:
            assert refused and refused[0] in (503, 507) and str(small) in refused[1]["status"]["error"], refused
        assert server.ok("POST", "/collections/full/points/count", {})["count"] == acknowledged * 500
        assert server.ok("POST", "/collections/full/points/query", {"query": [1.0] * 256})["points"]
        server.ok("PUT", "/collections/fine/points?wait=true", batch(0))
        assert subprocess.run(["mount", "-o", "remount,size=200m", str(small)]).returncode == 0
        server.ok("PUT", "/collections/full/points?wait=true", batch(acknowledged))
        server.ok("POST", "/collections/full/flush")
        deadline = time.monotonic() + 60
        while component == "wal" and log() != {urls["wal"][0]}:
            assert time.monotonic() < deadline, "the log did not come home"
            time.sleep(0.1)
        server.kill()
        server.start()
        assert server.ok("POST", "/collections/full/points/count", {})["count"] == (acknowledged + 1) * 500
        server.stop()
    finally:
        subprocess.run(["umount", "-l", str(small)])
