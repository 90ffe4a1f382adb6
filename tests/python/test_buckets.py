"""Roots in buckets: the promises of disks, over real S3, Azure and Google servers and mixed lists (issue 4, Shows 2, 5 and 8).

Short forms of the tests of disks. The long forms: PROXIMADB_TEST_ROOTS=s3|azure|gcs|mixed with test_crash.py,
test_placement.py, test_lifecycle.py and test_metadata.py, and PROXIMADB_BUCKET_ROUNDS here.
"""

import json
import os
import random
import re

import pytest

from buckets import KINDS
from conftest import SECTIONS, until
from test_crash import kill_again_and_again
from test_lifecycle import Load, assert_stored, collections_on, drain, is_drained, roots, schema, vector
from test_metadata import assert_two_equal, eventually, settings, update_and_kill, use_everything
from test_placement import assert_readable, homes

ROUNDS = int(os.environ.get("PROXIMADB_BUCKET_ROUNDS", "2"))
MIXED = ["disk", *KINDS]
VECTORS = {"vectors": {"size": 4, "distance": "Dot"}}


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), MIXED], ids="-".join)
def test_b2_b3_b4_b5_kill_9_loses_nothing_and_brings_nothing_back(servers, kinds):
    server = servers(roots=len(kinds), kinds=kinds, keys={"wal": {"memory_flush_size_bytes": 65536}})
    kill_again_and_again(server, ROUNDS, longest=1.5)


def test_b5_c14_every_url_of_a_mixed_list_holds_a_collection_and_without_records_the_same_homes_are_found(servers):
    keys = {component: {"distribution_strategy": "RoundRobin"} for component in SECTIONS}
    keys["index"]["index_type_affinity"] = False  # Else the two types of indexes share out the four roots.
    server = servers(roots=4, kinds=MIXED, keys=keys).start()
    names = [f"c{n}" for n in range(8)]
    for number, name in enumerate(names):
        # Four of each engine in turn, so that both get to every URL.
        engine = {"metadata": {"proximadb": {"storage_engine": "lsm" if number >= 4 else "viper"}}}
        server.ok("PUT", f"/collections/{name}", VECTORS | engine)
        point = {"id": 1, "vector": [1, 2, 3, 4], "payload": {"of": name}}
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": [point]})
        server.ok("POST", f"/collections/{name}/flush")
    for component in ("wal", "viper", "lsm", "metadata"):
        for root in roots(server, component):
            assert collections_on(server, root), root["url"]
    before = {component: homes(server, component) for component in ("wal", "viper", "index", "lsm")}
    assert set(before["index"].values()) == set(server.urls["index"])
    server.kill()
    for url in server.urls["metadata"]:
        for file in server.listing(url):
            if not file.startswith("_proximadb/"):
                server.remove(url, file)
    server.start()
    assert {component: homes(server, component) for component in before} == before
    assert_readable(server, names)
    server.ok("DELETE", "/collections/c0")
    server.ok("DELETE", "/collections/c4")
    files = [file for urls in server.urls.values() for url in urls for file in server.listing(url)]
    assert len({file.split("/")[0] for file in files} - {"_proximadb"}) == 6, "dropped collections leave nothing"
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


def move_everything_to(server, kind, position):
    """Every component leaves all roots but those of one kind."""
    leaving = []
    for component in SECTIONS:
        for root in roots(server, component):
            if root["url"] == server.urls[component][position]:
                server.ok("POST", f"/storage/roots/{root['id']}/resume")
    for component in SECTIONS:
        for root in roots(server, component):
            if root["url"] != server.urls[component][position]:
                if root["state"] != "draining":
                    drain(server, root)
                leaving.append((component, root))
    for component, root in leaving:
        until(lambda: is_drained(server, component, root["id"]), f"the move of {component} to {kind}", 120)
        assert collections_on(server, root) == [], (component, root["url"])


def test_k4_all_components_move_from_s3_to_disk_and_back_and_to_azure_under_load(servers):
    kinds = ["s3", "disk", "azure"]
    # One copy of each record: two roots at a time are left.
    server = servers(roots=3, kinds=kinds, keys={"metadata": {"backup_replicas": 1}}).start()
    model = {"viper": {}, "lsm": {}}
    # Smaller segments have no index files.
    for name, rows in (("viper", 2_100), ("lsm", 200)):
        server.ok("PUT", f"/collections/{name}", schema(name))
        ids = range(1_000_000, 1_000_000 + rows)
        points = [{"id": i, "vector": vector(i), "payload": {"stamp": i}} for i in ids]
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": points})
        server.ok("POST", f"/collections/{name}/flush")
        model[name].update({i: {i} for i in ids})
    with Load(server, list(model), model, random.random()) as load:
        until(lambda: load.answers >= 5, "the load")
        for position in (0, 1, 0, 2):
            move_everything_to(server, kinds[position], position)
        answered = load.answers
        until(lambda: load.answers >= answered + 5, "the load after the moves")
    # That a drain fails no request is shown on disks (test_lifecycle.py); a busy machine may keep a bucket's answer for long.
    assert [failure for failure in load.failures if failure[2] != 503] == []
    assert_stored(server, model)
    server.kill()
    server.start()
    assert_stored(server, model)
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


def metadata_in_two_clouds(servers, **options):
    server = servers(roots=2, kinds=["s3", "azure"], **options)
    for component in SECTIONS:
        if component != "metadata":
            server.urls[component] = [f"file://{server.base}/disk/{component}"]
    server.write_config()
    return server


def test_j6_kill_9_leaves_equal_replicas_in_two_clouds(servers):
    server = metadata_in_two_clouds(servers)
    update_and_kill(server, 5 * ROUNDS, ROUNDS, random.Random())
    assert_two_equal(server, 1)


@pytest.mark.parametrize("lost", ["s3", "azure"])
def test_j6_with_one_cloud_gone_everything_works_and_its_copies_come_back(servers, stores, faults, lost):
    proxy = faults(stores(lost))
    server = metadata_in_two_clouds(servers, endpoints={lost: proxy.endpoint}).start()
    for name in "ab":
        server.ok("PUT", f"/collections/{name}", VECTORS)
    proxy.set({"action": "status", "status": 403, "code": "AccessDenied"})
    use_everything(server, "new", 500)
    proxy.set()
    eventually(lambda: assert_two_equal(server, 3))
    server.kill()
    server.start()
    assert settings(server, "a") == (500, 500)


@pytest.mark.parametrize("kinds", [["s3"], KINDS], ids="-".join)
def test_k8_with_buckets_only_another_machine_finds_everything(servers, kinds):
    first = servers("first", roots=len(kinds), kinds=kinds).start()
    for engine in ("viper", "lsm"):
        first.ok("PUT", f"/collections/{engine}", schema(engine, 4))
        for half in range(2):
            points = [{"id": i, "vector": [i, 1, 2, 3], "payload": {"half": half}} for i in range(half * 100, half * 100 + 100)]
            first.ok("PUT", f"/collections/{engine}/points?wait=true", {"points": points})
            if half == 0:  # The other half is in the log only.
                first.ok("POST", f"/collections/{engine}/flush")
        first.ok("POST", f"/collections/{engine}/points/delete?wait=true", {"points": [7]})
    first.ok("PUT", "/collections/viper/index?wait=true", {"field_name": "half", "field_schema": "integer"})
    first.kill()
    assert {file.name for file in first.base.rglob("*")} == {"proximadb.toml", "server.log"}, "nothing but what the test wrote"
    second = servers("second", kinds=kinds, roots=len(kinds), urls=first.urls).start()
    for name in ("viper", "lsm"):
        assert second.ok("POST", f"/collections/{name}/points/count", {"exact": True})["count"] == 199
        found = second.ok("POST", f"/collections/{name}/points/query", {"query": [1, 0, 0, 0], "limit": 1, "with_payload": True})
        assert found["points"][0]["id"] == 199 and found["points"][0]["payload"] == {"half": 1}
        assert second.request("GET", f"/collections/{name}/points/7")[0] == 404
    assert second.ok("GET", "/collections/viper")["payload_schema"]["half"]["data_type"] == "integer"


def test_b12_wrong_settings_are_one_clear_line_each_at_the_start(servers, stores, own_store, faults):
    def refusal(kind, option, value, *words):
        server = servers(f"wrong{random.random()}", roots=1, kinds=[kind])
        name, _ = server.stores[kind].variables()[option]
        variables = server.variables() | {name: value}
        server.variables = lambda: variables
        result = server.command("serve")
        assert result.returncode != 0
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.stderr
        for word in (server.places[0], *words):
            assert word in errors[0], errors[0]
        assert value not in result.stderr or option in ("endpoint", "region")

    refusal("s3", "secret_access_key", "hunter2hunter2", "credentials are refused", "storage.credentials")
    refusal("azure", "account_key", "aHVudGVyMmh1bnRlcjI=", "storage.credentials")
    refusal("gcs", "bearer_token", "hunter2hunter2", "credentials are refused", "storage.credentials")
    refusal("s3", "region", "eu-central-1", "another region", "`region`")
    refusal("s3", "endpoint", "http://127.0.0.1:1", "cannot be reached", "check the endpoint")
    server = servers("missing", roots=1, kinds=["s3"])
    server.urls = {component: [f"s3://no-such-bucket/{component}"] for component in SECTIONS}
    credentials = server.stores["s3"].variables()
    server.write_config()
    lines = "\n".join(f'{option} = "{name}"' for option, (name, _) in credentials.items())
    server.config.write_text(f'{server.config.read_text()}\n[storage.credentials."s3://no-such-bucket"]\n{lines}\n')
    result = server.command("serve")
    assert result.returncode != 0
    assert "s3://no-such-bucket/" in result.stderr and "the bucket does not exist" in result.stderr, result.stderr


def test_storage_probe_says_what_a_bucket_can_do(servers, own_store):
    server = servers(roots=1, kinds=KINDS[:1])
    url = server.places[0]
    text = server.command("storage", "probe", url)
    assert text.returncode == 0 and "can be a root" in text.stdout, text.stderr
    assert re.search(r"exclusive_create +true", text.stdout), text.stdout
    report = json.loads(server.command("storage", "probe", url, "--json").stdout)
    assert report["usable"] and report["problem"] is None and report["capabilities"]["clock_skew_ms"] == 0
    assert server.listing(url) == {}, "a probe leaves nothing"
    failed = server.command("storage", "probe", "s3://no-such-bucket-of-ours/x")
    assert failed.returncode != 0 and "s3://no-such-bucket-of-ours/x" in failed.stderr


def test_no_credential_appears_in_any_log_error_metric_dump_or_answer(servers, monkeypatch):
    monkeypatch.setenv("RUST_LOG", "debug")
    server = servers(roots=3, kinds=KINDS).start()
    server.ok("PUT", "/collections/c", VECTORS)
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]})
    server.ok("POST", "/collections/c/flush")
    paths = ["/storage/roots", "/storage/assignments", "/storage/stats", "/storage/moves", "/metrics", "/telemetry", "/openapi.json"]
    paths += ["/", "/readyz", "/healthz", "/cluster", "/collections/c", "/collections/c/cluster", "/collections/missing"]
    shown = [str(server.request("GET", path)) for path in paths]
    shown.append(str(server.request("POST", "/storage/roots", {"component": "viper", "url": f"{server.places[0]}/not/wal/viper"})))
    shown.append(str(server.request("POST", "/storage/roots", {"component": "viper", "url": "s3://user:hunter2hunter2@bucket/x"})))
    server.stop()
    for command in (["config", "show"], ["config", "show", "--json"], ["storage", "verify"], ["storage", "roots", "--json"],
                    ["wal", "stats", "--json"], ["wal", "dump"], ["storage", "probe", server.places[0]]):
        result = server.command(*command)
        shown += [result.stdout, result.stderr]
    shown.append((server.base / "server.log").read_text())
    for urls in server.urls.values():
        for url in urls:
            shown += [str(server.read(url, file)) for file in server.listing(url)]
    public = ("endpoint", "region")
    secrets = {value for store in server.stores.values() for option, value in store.options.items() if option not in public}
    assert len(secrets) == 4
    for text in shown:
        for secret in (*secrets, "hunter2hunter2"):
            assert secret not in text, text[max(0, text.find(secret) - 300) :][:400]
