"""Where collections land, and that they are found again (issue 2, Shows 4; FEATURES C and E)."""

import random
from collections import Counter

COLLECTION = {"vectors": {"size": 4, "distance": "Dot"}}


def create(server, names):
    for name in names:
        server.ok("PUT", f"/collections/{name}", COLLECTION)
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4], "payload": {"of": name}}]})


def homes(server, component):
    """Collection name → URL of its home, as the server says."""
    answer = server.ok("GET", f"/storage/assignments?component={component}")
    return {entry["collection"]: entry["storage_url"] for entry in answer["assignments"]}


def indices(server, component, names):
    urls = server.urls[component]
    where = homes(server, component)
    return [urls.index(where[name]) for name in names]


def assert_readable(server, names):
    for name in names:
        point = server.ok("GET", f"/collections/{name}/points/1")
        assert (point["vector"], point["payload"]) == ([1.0, 2.0, 3.0, 4.0], {"of": name})


def test_c1_four_collections_on_three_roots_land_on_0_1_2_0(servers):
    server = servers(roots=3).start()
    create(server, "abcd")
    assert indices(server, "wal", "abcd") == [0, 1, 2, 0]


def test_c2_ten_on_four_give_3_3_2_2_also_with_a_restart_in_the_middle(servers):
    server = servers(roots=4).start()
    create(server, "abcde")
    server.kill()
    server.start()
    create(server, "fghij")
    assert Counter(indices(server, "wal", "abcdefghij")) == {0: 3, 1: 3, 2: 2, 3: 2}


def test_c13_c15_adding_and_shuffling_roots_moves_nothing(servers):
    names = [f"c{n}" for n in range(60)]
    server = servers(roots=3).start()
    create(server, names)
    before = {component: homes(server, component) for component in server.urls}
    server.stop()
    for component in server.urls:
        server.urls[component].append(f"file://{server.base}/disk3/{component}")
        random.Random(1).shuffle(server.urls[component])
    server.write_config()
    server.start()
    assert {component: homes(server, component) for component in server.urls} == before
    assert_readable(server, names)
    create(server, [f"new{n}" for n in range(8)])
    assert any("disk3" in url for url in homes(server, "wal").values()), "new collections use the new root"


def test_e6_with_every_placement_record_deleted_the_same_homes_are_found(servers):
    server = servers(roots=3).start()
    names = [f"c{n}" for n in range(7)]
    create(server, names)
    server.ok("POST", "/collections/c3/flush")
    before = {component: homes(server, component) for component in ("wal", "viper", "index", "lsm")}
    server.stop()
    for url in server.urls["metadata"]:
        for file in server.listing(url):
            if not file.startswith("_proximadb/"):
                server.remove(url, file)
    server.start()
    assert {component: homes(server, component) for component in before} == before
    assert_readable(server, names)
    create(server, ["later"])
    assert indices(server, "wal", ["later"]) == [1], "the counter goes on after seven collections"


def test_e10_a_root_that_cannot_be_listed_is_unknown_and_nothing_is_assigned_again(servers):
    server = servers(roots=3, kinds=["disk"]).start()
    create(server, "abc")
    before = homes(server, "wal")
    server.stop()
    lost = server.path(server.urls["wal"][1])
    away = lost.with_name("away")
    lost.rename(away)
    lost.write_text("not a directory")
    server.start()
    status, answer = server.request("GET", "/collections/b/points/1")
    assert status == 503 and server.urls["wal"][1] in answer["status"]["error"], answer
    status, answer = server.request("PUT", "/collections/b/points", {"points": [{"id": 2, "vector": [0, 0, 0, 0]}]})
    assert status == 503, answer
    assert_readable(server, "ac")
    assert homes(server, "wal") == before
    server.stop()
    lost.unlink()
    away.rename(lost)
    server.start()
    assert_readable(server, "abc")


def test_an_unmounted_disk_is_refused_and_nothing_is_written_below_it(servers):
    server = servers(roots=3, kinds=["disk"]).start()
    create(server, "abc")
    server.stop()
    lost = server.path(server.urls["wal"][0])
    held = [name for name, url in homes_offline(server, "wal").items() if url == server.urls["wal"][0]]
    assert held == ["a"]
    away = lost.with_name("away")
    lost.rename(away)
    lost.mkdir()
    server.start()
    for name in held:
        assert server.request("GET", f"/collections/{name}/points/1")[0] == 503
    assert list(lost.iterdir()) == []


def homes_offline(server, component):
    import json

    result = server.command("storage", "assignments", "--json")
    assert result.returncode == 0, result.stderr
    return {e["collection"]: e["storage_url"] for e in json.loads(result.stdout)["assignments"] if e["resource_type"].lower().startswith(component)}


def held(server):
    """The ids of all collections that have a file anywhere."""
    files = [file for urls in server.urls.values() for url in urls for file in server.listing(url)]
    return {file.split("/")[0] for file in files} - {"_proximadb"}


def test_d14_a_dropped_collection_leaves_nothing_and_its_neighbours_alone(servers):
    server = servers(roots=2).start()
    create(server, "ab")
    server.ok("POST", "/collections/a/flush")
    assert len(held(server)) == 2
    server.ok("DELETE", "/collections/a")
    assert len(held(server)) == 1
    assert_readable(server, "b")
    create(server, "a")
    assert server.ok("POST", "/collections/a/points/count", {})["count"] == 1


def test_bad_roots_are_refused_at_start(servers, tmp_path):
    def refused(urls, *words):
        server = servers(f"bad{random.random()}", urls=urls)
        result = server.command("serve")
        assert result.returncode != 0
        for word in words:
            assert word in result.stderr, result.stderr

    good = {c: [f"file://{tmp_path}/good/{c}"] for c in ("wal", "viper", "lsm", "index", "metadata")}
    refused({**good, "wal": [good["wal"][0], good["wal"][0]]}, good["wal"][0])
    refused({**good, "wal": [good["wal"][0], good["wal"][0] + "/nested"]}, "nested")
    refused({**good, "wal": []}, "No WAL URLs configured")
    refused({**good, "wal": ["ftp://x/y"]}, "ftp")
    first = servers("first", urls=good).start()
    first.stop()
    foreign = {**{c: [f"file://{tmp_path}/second/{c}"] for c in good}}
    second = servers("second-server", urls=foreign).start()
    second.stop()
    refused({**good, "wal": foreign["wal"]}, foreign["wal"][0])
    refused({**good, "viper": good["wal"], "wal": [f"file://{tmp_path}/other"]}, good["wal"][0])
