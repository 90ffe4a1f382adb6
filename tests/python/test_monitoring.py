"""What operators see is what is there: metrics, reports, logs and the dashboard (FEATURES D, G3, K; issue 3, Monitoring)."""

import json
import os
import re
import time
from collections import Counter, defaultdict

import pytest

from conftest import REPOSITORY, SECTIONS
from test_lifecycle import drain, is_drained, roots, schema, until

SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def metrics(server):
    """Every sample of /metrics: name → list of (labels, value)."""
    status, text = server.request("GET", "/metrics")
    assert status == 200
    found = defaultdict(list)
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = SAMPLE.match(line).groups()
            found[name].append((dict(LABEL.findall(labels or "")), float(value)))
    return found


def by_root(samples):
    """URL → value, of a family with one sample a root."""
    values = {labels["url"]: value for labels, value in samples}
    assert len(values) == len(samples)
    return values


def on_disk(server, url):
    """Bytes, files and collections below a root, as `find` and `du -b` count them."""
    base = server.path(url)
    files = [f for f in base.rglob("*") if f.is_file() and f.relative_to(base).parts[0] != "_proximadb"]
    return sum(f.stat().st_size for f in files), len(files), len({f.relative_to(base).parts[0] for f in files})


def all_urls(server):
    return [url for urls in server.urls.values() for url in urls]


@pytest.fixture
def busy(servers):
    """A server with collections that have files on most roots."""
    server = servers(roots=3, keys={"viper": {"distribution_strategy": "RoundRobin"}}).start()
    for n in range(5):
        server.ok("PUT", f"/collections/c{n}", schema("viper"))
        points = [{"id": i, "vector": [float(i + n)] * 16, "payload": {"of": n}} for i in range(200 * (n + 1))]
        server.ok("PUT", f"/collections/c{n}/points?wait=true", {"points": points})
        if n != 4:
            server.ok("POST", f"/collections/c{n}/flush")
    return server


def test_k1_metrics_have_a_series_for_every_root_that_equals_its_disk(busy):
    def shown():
        now = metrics(busy)
        families = [by_root(now[f"proximadb_root_{name}"]) for name in ("bytes", "files", "collections")]
        assert all(family.keys() == set(all_urls(busy)) for family in families)
        return {url: tuple(family[url] for family in families) for url in all_urls(busy)}

    # Indexes and merges may still be under way.
    until(lambda: shown() == {url: on_disk(busy, url) for url in all_urls(busy)}, "metrics equal to the disks", 20)
    assert sum(1 for bytes_, _, _ in shown().values() if bytes_ > 0) >= 8
    now = metrics(busy)
    for family, field in (("capacity_bytes", "f_blocks"), ("assignments", None)):
        values = by_root(now[f"proximadb_root_{family}"])
        assert values.keys() == set(all_urls(busy))
        if field:
            for url, value in values.items():
                stat = os.statvfs(busy.path(url))
                assert value == getattr(stat, field) * stat.f_frsize
    component = {labels["url"]: labels["component"] for labels, _ in now["proximadb_root_assignments"]}
    assigned = Counter()
    for url, value in by_root(now["proximadb_root_assignments"]).items():
        assigned[component[url]] += value
    # Indexes are placed by type, so a collection has up to three homes for them; metadata has two copies.
    assert 5 <= assigned.pop("index") <= 15 and assigned == {"wal": 5, "viper": 5, "lsm": 5, "metadata": 10}
    free = by_root(now["proximadb_root_free_bytes"])
    capacity = by_root(now["proximadb_root_capacity_bytes"])
    assert all(0 < free[url] < capacity[url] for url in capacity)


def test_k2_latencies_are_histograms_of_each_operation_of_each_root(busy):
    now = metrics(busy)
    key = lambda labels: (labels["url"], labels["operation"])
    counts = {key(labels): value for labels, value in now["proximadb_root_latency_seconds_count"]}
    sums = {key(labels): value for labels, value in now["proximadb_root_latency_seconds_sum"]}
    buckets = defaultdict(list)
    for labels, value in now["proximadb_root_latency_seconds_bucket"]:
        buckets[key(labels)].append((float(labels["le"]), value))
    operations = {key(labels): value for labels, value in now["proximadb_root_operations_total"]}
    assert counts == operations and counts.keys() == buckets.keys() == sums.keys()
    assert counts.keys() == {(url, op) for url in all_urls(busy) for op in ("read", "write", "create", "list", "delete", "sync")}
    for of, series in buckets.items():
        assert series == sorted(series) and series[-1] == (float("inf"), counts[of])
        below = [value for _, value in series]
        assert below == sorted(below)
        assert (sums[of] > 0) == (counts[of] > 0)
    wal = busy.urls["wal"][0]
    assert counts[wal, "sync"] > 0, "syncs of the log count for its root"
    errors = {key(labels): value for labels, value in now["proximadb_root_errors_total"]}
    assert errors.keys() == counts.keys()


def test_k1_a_root_is_in_exactly_one_state_and_moves_are_counted(busy):
    before = metrics(busy)
    assignments = by_root(before["proximadb_root_assignments"])
    leaving = max(roots(busy, "viper"), key=lambda root: assignments[root["url"]])
    held = assignments[leaving["url"]]
    states = defaultdict(dict)
    for labels, value in before["proximadb_root_state"]:
        states[labels["url"]][labels["state"]] = value
    assert states == {url: {"online": 1, "suspect": 0, "read-only": 0, "draining": 0, "offline": 0} for url in all_urls(busy)}
    assert {labels["state"]: value for labels, value in before["proximadb_moves"]} == {"queued": 0, "running": 0, "waiting": 0, "done": 0}
    assert held > 0
    drain(busy, leaving)
    until(lambda: is_drained(busy, "viper", leaving["id"]), "the drain")
    after = metrics(busy)
    state = {labels["state"]: value for labels, value in after["proximadb_root_state"] if labels["root"] == leaving["id"]}
    assert state == {"online": 0, "suspect": 0, "read-only": 0, "draining": 1, "offline": 0}
    assert {labels["state"]: value for labels, value in after["proximadb_moves"]} == {"queued": 0, "running": 0, "waiting": 0, "done": held}
    assert after["proximadb_moves_left_bytes"] == [({}, 0)]
    reported = busy.ok("GET", "/storage/moves")["moves"]
    assert after["proximadb_moves_moved_bytes"] == [({}, sum(move["moved_bytes"] for move in reported))]
    assert by_root(after["proximadb_root_bytes"])[leaving["url"]] == 0 == by_root(after["proximadb_root_up"])[leaving["url"]]


def test_k5_skew_is_the_fullest_root_over_the_mean(busy):
    skews = lambda: {labels["component"]: value for labels, value in metrics(busy)["proximadb_component_skew"]}
    disks = lambda component: [on_disk(busy, url)[0] for url in busy.urls[component]]

    def equal():
        now = skews()
        return now.keys() == SECTIONS.keys() and all(
            abs(now[component] - (max(disks(component)) * 3 / sum(disks(component)) if sum(disks(component)) else 0)) < 1e-9
            for component in SECTIONS
        )

    until(equal, "skew equal to the disks", 20)
    stats = busy.ok("GET", "/storage/stats")["components"]
    assert {component: entry["skew"] for component, entry in stats.items()} == pytest.approx(skews())


def test_k1_flushes_logs_and_memory_are_counted_without_opening_collections(busy):
    now = metrics(busy)
    flushes = {(labels["collection"], labels["trigger"]): value for labels, value in now["proximadb_flushes_total"]}
    assert {c for (c, trigger), value in flushes.items() if trigger == "request" and value == 1} == {"c0", "c1", "c2", "c3"}
    entries = {labels["collection"]: value for labels, value in now["proximadb_wal_entries_total"]}
    assert entries == {f"c{n}": 200 * (n + 1) for n in range(5)}
    assert now["proximadb_memtable_bytes"][0][1] > 0
    busy.stop()
    busy.start()
    now = metrics(busy)
    assert now["collections_total"] == [({}, 5)] and now["collection_points"] == []
    busy.ok("GET", "/collections/c2/points/1")
    assert metrics(busy)["collection_points"] == [({"collection": "c2"}, 600)]


def test_k1_the_dashboard_asks_for_metrics_that_exist(busy):
    dashboard = json.loads((REPOSITORY / "docs" / "grafana" / "proximadb.json").read_text())
    assert dashboard["schemaVersion"] >= 39 and dashboard["uid"] and dashboard["title"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(panels) >= 15 and len(set(ids)) == len(ids)
    existing = set(metrics(busy))
    functions = {"sum", "rate", "by", "topk", "histogram_quantile", "label_values"}
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    used = set()
    for query in queries:
        # Without label matchers, ranges, grouping and strings only functions and metrics are left.
        bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|"[^"]*"', "", query).replace(", component)", ")")
        names = set(re.findall(r"[a-z_][a-z_0-9]*", bare)) - functions
        assert names and names <= existing, (query, names - existing)
        used |= names
    for name in ("bytes", "files", "collections", "assignments", "capacity_bytes", "free_bytes", "state", "errors_total"):
        assert f"proximadb_root_{name}" in used
    assert {"proximadb_root_latency_seconds_bucket", "proximadb_moves", "proximadb_component_skew"} <= used


def test_d4_d5_an_assignment_has_its_fields_and_they_equal_the_disk(busy):
    shown = json.loads(busy.command("assign", "show", "c3", "--json").stdout)["assignments"]
    rows = Counter(row["component"] for row in shown)
    # Indexes are placed by type, metadata has two copies.
    assert 1 <= rows.pop("index") <= 3 and rows == {"wal": 1, "viper": 1, "lsm": 1, "metadata": 2}
    fields = {"resource_id", "storage_url", "directory_index", "assigned_at", "last_accessed", "file_count", "total_size_bytes", "resource_type"}
    for row in shown:
        assert fields <= row.keys()
        assert busy.urls[row["component"]][row["directory_index"]] == row["storage_url"]
        directory = busy.path(row["storage_url"]) / row["resource_id"]
        files = [f for f in directory.rglob("*") if f.is_file()]
        assert (row["file_count"], row["total_size_bytes"]) == (len(files), sum(f.stat().st_size for f in files)), row
    view = json.loads(busy.command("assign", "list", "--wal-view", "--json").stdout)["assignments"]
    assert len(view) == 5
    assert all(row.keys() == {"collection_id", "wal_directory_url", "directory_index", "assigned_at", "total_size_bytes"} for row in view)
    assert busy.command("assign", "show", "none").returncode == 1


def test_d9_a_read_updates_last_accessed_within_its_granularity(busy):
    accessed = lambda: {row["last_accessed"] for row in busy.ok("GET", "/storage/assignments?collection=c1")["assignments"] if row["component"] == "wal"}
    before = max(accessed())

    def read():
        busy.ok("GET", "/collections/c1/points/1")
        return max(accessed()) > before

    until(read, "a later access", 20)
    assert max(accessed()) <= time.time() * 1000


def test_d10_k7_assignment_statistics_sum_up_running_or_not(busy):
    running = json.loads(busy.command("assign", "stats", "--json").stdout)
    busy.stop()
    offline = json.loads(busy.command("assign", "stats", "--json").stdout)
    for stats in (running, offline):
        assert stats.keys() == SECTIONS.keys()
        for component, totals in stats.items():
            assert totals["roots"] == 3 and totals["bytes"] == sum(totals["bytes_by_root"].values())
            assert totals["collections_by_root"].keys() == totals["bytes_by_root"].keys() == set(busy.urls[component])
    assert sum(offline["wal"]["collections_by_root"].values()) == 5
    assert {url: count for url, count in offline["viper"]["bytes_by_root"].items()} == {url: on_disk(busy, url)[0] for url in busy.urls["viper"]}
    text = busy.command("assign", "stats").stdout
    assert all(url in text for url in all_urls(busy))


def test_e9_the_maps_of_both_engines_are_filled_after_a_restart(busy):
    busy.kill()
    busy.start()
    for component in ("lsm", "viper"):
        rows = json.loads(busy.command("assign", "list", "--component", component, "--json").stdout)["assignments"]
        assert {row["collection"] for row in rows} == {f"c{n}" for n in range(5)} and {row["component"] for row in rows} == {component}
    assert busy.command("assign", "list", "--component", "tape").returncode == 2


def test_g3_clusters_name_segment_file_root_and_rows(busy):
    clusters = json.loads(busy.command("viper", "clusters", "c3", "--json").stdout)["clusters"]
    assert sum(cluster["rows"] for cluster in clusters) == 800
    home = next(row["storage_url"] for row in busy.ok("GET", "/storage/assignments?collection=c3&component=viper")["assignments"])
    for cluster in clusters:
        assert cluster["url"] == home and (busy.path(home) / cluster["file"]).is_file()
        assert cluster["segment"] in cluster["file"]
    assert busy.command("viper", "clusters", "none").returncode == 1


def test_k6_the_log_says_what_was_initialised_created_and_chosen_as_json_fields(servers, monkeypatch):
    monkeypatch.setenv("PROXIMADB_LOG_FORMAT", "json")
    server = servers(roots=2)
    existing = server.path(server.urls["wal"][0])
    existing.mkdir(parents=True)
    server.start()
    server.ok("PUT", "/collections/c", schema("viper", 4))
    lines = [json.loads(line)["fields"] for line in (server.base / "server.log").read_text().splitlines()]
    initialised = {line["root"]: line for line in lines if line["message"] == "root initialised"}
    assert initialised.keys() == set(all_urls(server))
    assert {line["directory"] for url, line in initialised.items() if url != server.urls["wal"][0]} == {"created"}
    assert initialised[server.urls["wal"][0]]["directory"] == "exists"
    assert {line["component"] for line in initialised.values()} == SECTIONS.keys()
    placed = {line["component"]: line for line in lines if line["message"] == "collection placed"}
    assert placed.keys() == SECTIONS.keys()
    for component, line in placed.items():
        assert line["collection"] == "c" and line["id"] and any(url in str(line["urls"]) for url in server.urls[component])


def test_d2_operators_commands_plan_before_they_move_and_say_what_failed(busy):
    plan = busy.command("storage", "rebalance", "--component", "viper", "--json")
    assert plan.returncode == 0
    shown = json.loads(plan.stdout)
    assert shown["dry_run"] and busy.ok("GET", "/storage/moves")["moves"] == []
    if shown["moves"]:
        assert "--yes" in plan.stderr
    dry = busy.command("storage", "rebalance", "--component", "viper", "--dry-run")
    assert dry.returncode == 0 and dry.stderr == ""
    home = busy.ok("GET", "/storage/assignments?collection=c0&component=viper")["assignments"][0]["storage_url"]
    other = next(url for url in busy.urls["viper"] if url != home)
    moved = busy.command("storage", "move", "c0", "viper", other, "--json")
    assert moved.returncode == 0, moved.stderr
    assert (json.loads(moved.stdout)["from_url"], json.loads(moved.stdout)["to_url"]) == (home, other)
    watched = busy.command("storage", "moves", "--watch")
    assert watched.returncode == 0 and "done 1" in watched.stdout.splitlines()[-1]
    assert busy.ok("GET", "/storage/assignments?collection=c0&component=viper")["assignments"][0]["storage_url"] == other
    assert other in busy.command("storage", "moves").stdout
    assert busy.command("storage", "drain", home).returncode == 0
    assert busy.command("storage", "moves", "--watch", "--json").returncode == 0
    assert next(root for root in roots(busy, "viper") if root["url"] == home)["state"] == "draining"
    assert busy.command("storage", "resume", home).returncode == 0
    assert next(root for root in roots(busy, "viper") if root["url"] == home)["state"] == "online"
    refused = busy.command("storage", "drain", "file:///nowhere")
    assert refused.returncode == 1 and "file:///nowhere" in refused.stderr and refused.stdout == ""
    busy.stop()
    assert busy.command("storage", "drain", home).returncode == 1
    alias, verify = busy.command("verify", "--json"), busy.command("storage", "verify", "--json")
    assert alias.returncode == verify.returncode == 0 and json.loads(alias.stdout) == json.loads(verify.stdout)
