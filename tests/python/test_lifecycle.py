"""Roots come, go and fail while clients work: drain, rebalance, discovery, races (issue 3, Shows 3, 4, 6 and 7)."""

import http.client
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest

from conftest import send, until

# The components whose moves are tested: wal, viper, index, metadata, lsm. The last two move as well; left are empty
# directories (metadata), and `storage verify` that does not know LSM files (lsm).
MOVING = os.environ.get("PROXIMADB_MOVING", "viper,wal,index,metadata,lsm").split(",")
KILLS = int(os.environ.get("PROXIMADB_DRAIN_KILLS", "5"))
SEED = int(os.environ.get("PROXIMADB_DRAIN_SEED", random.randrange(1 << 32)))
DIM = 16
IDS_PER_WRITER = 60
WRITERS = 3
SEARCHERS = 2
ABSENT = None


def vector(stamp):
    return [float((stamp * (n + 3)) % 8191) / 8 for n in range(DIM)]


def schema(component, size=DIM):
    body = {"vectors": {"size": size, "distance": "Dot"}}
    if component == "lsm":
        body["metadata"] = {"proximadb": {"storage_engine": "lsm"}}
    return body


def roots(server, component):
    return [root for root in server.ok("GET", "/storage/roots")["roots"] if root["component"] == component]


def collections_on(server, root):
    """What lies on a root, as the disk or bucket says; a kill may leave a directory without files."""
    return sorted({file.split("/")[0] for file in server.listing(root["url"])} - {"_proximadb"})


class Client(threading.Thread):
    """One client with one connection that it keeps. `failures` is everything that was not answered with 200."""

    def __init__(self, load):
        super().__init__(daemon=True)
        self.load, self.failures, self.answers = load, [], 0
        self.random = random.Random(load.random.random())

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.load.server.port, timeout=60)
        try:
            while not self.load.stopping.is_set():
                self.step(connection)
                self.answers += 1
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()

    def ask(self, connection, method, path, body):
        status, answer = send(connection, method, path, body)
        if status != 200:
            self.failures.append((method, path, status, answer))
        return status == 200, answer


class Writer(Client):
    """Writes and deletes points of its own ids; the model has, per point, every state that it may be in."""

    def __init__(self, load, number):
        super().__init__(load)
        self.number = number

    def step(self, connection):
        name = self.random.choice(self.load.names)
        ids = self.random.sample(range(self.number * IDS_PER_WRITER, (self.number + 1) * IDS_PER_WRITER), 10)
        model = self.load.model[name]
        if self.random.random() < 0.2:
            change = {i: ABSENT for i in ids}
            request = ("POST", f"/collections/{name}/points/delete?wait=true", {"points": ids})
        else:
            stamp = self.random.randrange(1 << 20)
            change = {i: stamp + i for i in ids}
            points = [{"id": i, "vector": vector(s), "payload": {"stamp": s}} for i, s in change.items()]
            request = ("PUT", f"/collections/{name}/points?wait=true", {"points": points})
        for i, state in change.items():
            model[i] = model.get(i, {ABSENT}) | {state}
        if self.ask(connection, *request)[0]:
            for i, state in change.items():
                model[i] = {state}


class Searcher(Client):
    def step(self, connection):
        name = self.random.choice(self.load.names)
        query = {"query": vector(self.random.randrange(1 << 20)), "limit": 5, "with_payload": True}
        done, answer = self.ask(connection, "POST", f"/collections/{name}/points/query", query)
        scores = [point["score"] for point in answer["result"]["points"]] if done else []
        assert scores == sorted(scores, reverse=True)


class Load:
    """A steady load on collections, from begin to end of a `with` block."""

    def __init__(self, server, names, model, seed):
        self.server, self.names, self.model = server, names, model
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.clients = [Writer(self, n) for n in range(WRITERS)] + [Searcher(self) for _ in range(SEARCHERS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for client in self.clients:
            client.join(timeout=120)
            assert not client.is_alive(), "a client is stuck"

    @property
    def failures(self):
        return [failure for client in self.clients for failure in client.failures]

    @property
    def answers(self):
        return min(client.answers for client in self.clients)


def assert_stored(server, model):
    """Every point is in a state that it may be in, and no point is there twice."""
    for name, points in model.items():
        stored, offset = [], None
        while True:
            page = server.ok("POST", f"/collections/{name}/points/scroll", {"limit": 5000, "offset": offset, "with_vector": True})
            stored += page["points"]
            offset = page["next_page_offset"]
            if offset is None:
                break
        found = {point["id"]: point for point in stored}
        assert len(found) == len(stored), f"{name}: a point is there twice"
        assert server.ok("POST", f"/collections/{name}/points/count", {"exact": True})["count"] == len(found)
        for i, allowed in points.items():
            stamp = found[i]["payload"]["stamp"] if i in found else ABSENT
            assert stamp in allowed, f"{name}/{i}: {stamp} is none of {allowed}"
            if stamp is not ABSENT:
                assert found[i]["vector"] == vector(stamp), f"{name}/{i}: the vector is another's"
                # What was in doubt is decided now.
                points[i] = {stamp}
            else:
                points[i] = {ABSENT}
        assert found.keys() <= points.keys()


def filled(servers, component, count):
    """Four roots with `count` collections, in segments and, as soon as somebody writes, in the log."""
    keys = {"wal": {"memory_flush_size_bytes": 65536}}
    keys.setdefault(component, {})["distribution_strategy"] = "RoundRobin"
    # Smaller segments have no index files.
    rows = 2_100 if component == "index" else 200
    server = servers(roots=4, keys=keys).start()
    names = [f"c{n}" for n in range(count)]
    model = {name: {} for name in names}
    for name in names:
        server.ok("PUT", f"/collections/{name}", schema(component))
        for half in range(2):
            ids = range(1_000_000 + half * rows, 1_000_000 + half * rows + rows)
            points = [{"id": i, "vector": vector(i), "payload": {"stamp": i}} for i in ids]
            server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": points})
            server.ok("POST", f"/collections/{name}/flush")
            model[name].update({i: {i} for i in ids})
    # Index files are written behind the flush.
    until(lambda: sum(len(collections_on(server, root)) for root in roots(server, component)) >= count, "files of all", 30)
    return server, names, model


def fullest(server, component):
    """The root with the most collections. Indexes of one type may leave some roots empty."""
    return max(roots(server, component), key=lambda root: len(collections_on(server, root)))


def drain(server, root):
    answer = server.ok("POST", f"/storage/roots/{root['id']}/drain")
    assert (answer["id"], answer["state"]) == (root["id"], "draining")


def is_drained(server, component, root_id):
    """Nothing is assigned to the root, and no move is under way."""
    now = next(root for root in roots(server, component) if root["id"] == root_id)
    moves = server.ok("GET", "/storage/moves")
    return now["collections"] == 0 and now["assignments"] == 0 and moves["queued"] + moves["running"] + moves["waiting"] == 0


@pytest.mark.parametrize("component", MOVING)
def test_k4_a_drain_of_one_of_four_roots_under_load_fails_no_request_and_leaves_the_root_empty(servers, component):
    print("seed", SEED)
    server, names, model = filled(servers, component, 12)
    leaving = fullest(server, component)
    assert collections_on(server, leaving)
    with Load(server, names, model, SEED) as load:
        until(lambda: load.answers >= 20, "the load")
        drain(server, leaving)
        until(lambda: is_drained(server, component, leaving["id"]), "the drain")
        answered = load.answers
        until(lambda: load.answers >= answered + 20, "the load after the drain")
    assert load.failures == []
    assert collections_on(server, leaving) == []
    assert_stored(server, model)
    moves = server.ok("GET", "/storage/moves")["moves"]
    assert moves and all(move["from"] == leaving["id"] and move["state"] == "done" for move in moves)
    server.kill()
    server.start()
    assert_stored(server, model)
    assert collections_on(server, leaving) == []
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize("component", MOVING)
def test_k5_kill_9_at_random_points_of_a_drain_loses_and_doubles_nothing_and_the_moves_finish(servers, component):
    print("seed", SEED)
    chance = random.Random(SEED)
    server, names, model = filled(servers, component, 16)
    leaving, new = fullest(server, component), True
    for kill in range(KILLS):
        with Load(server, names, model, chance.random()) as load:
            if next(root for root in roots(server, component) if root["id"] == leaving["id"])["state"] == "online":
                assert new, "a drain outlasts a restart"
                drain(server, leaving)
            new = False
            # Not a synchronisation: the random point.
            time.sleep(chance.uniform(0, 0.7))
            server.kill()
        refused = [failure for failure in load.failures if isinstance(failure, tuple)]
        assert refused == [], f"kill {kill}"
        server.start()
        assert_stored(server, model)
        if is_drained(server, component, leaving["id"]):
            # Done before the kill: the next ones hit the drain of another root.
            assert collections_on(server, leaving) == []
            server.ok("POST", f"/storage/roots/{leaving['id']}/resume")
            leaving = chance.choice([root for root in roots(server, component) if root["id"] != leaving["id"]])
            new = True
    with Load(server, names, model, chance.random()) as load:
        if next(root for root in roots(server, component) if root["id"] == leaving["id"])["state"] == "online":
            drain(server, leaving)
        until(lambda: is_drained(server, component, leaving["id"]), "the drain")
    assert load.failures == []
    assert collections_on(server, leaving) == []
    assert_stored(server, model)
    server.stop()
    verified = server.command("storage", "verify")
    assert verified.returncode == 0, verified.stdout


def bytes_by_root(server, component):
    def stored(url):
        return sum(size for file, size in server.listing(url).items() if not file.startswith("_proximadb/"))

    return {url: stored(url) for url in server.urls[component]}


def test_k5_a_fifth_root_and_a_rebalance_even_out_the_bytes_as_planned(servers):
    server = servers(roots=4, keys={"viper": {"distribution_strategy": "RoundRobin"}}).start()
    names = [f"c{n}" for n in range(40)]
    for name in names:
        server.ok("PUT", f"/collections/{name}", schema("viper", 64))
        points = [{"id": i, "vector": [float(i * (n + 1) % 97) for n in range(64)], "payload": {"of": name}} for i in range(300)]
        server.ok("PUT", f"/collections/{name}/points?wait=true", {"points": points})
        server.ok("POST", f"/collections/{name}/flush")
    server.stop()
    server.urls["viper"].append(f"file://{server.base}/disk4/viper")
    server.write_config()
    server.start()
    before = bytes_by_root(server, "viper")
    plan = server.ok("POST", "/storage/rebalance?dry_run=true&component=viper")
    assert plan["dry_run"] and plan["moves"] and plan["requests"] > plan["files"] > 0
    assert plan["bytes"] == sum(move["bytes"] for move in plan["moves"])
    assert bytes_by_root(server, "viper") == before and server.ok("GET", "/storage/moves")["moves"] == []
    started = server.ok("POST", "/storage/rebalance?component=viper")
    assert started == {**plan, "dry_run": False}
    moves = until(lambda: (now := server.ok("GET", "/storage/moves"))["done"] == len(plan["moves"]) and now, "the rebalance")
    assert moves["bytes_left"] == 0
    moved = sum(move["moved_bytes"] for move in moves["moves"])
    assert abs(plan["bytes"] - moved) <= 0.05 * moved, (plan["bytes"], moved)
    after = bytes_by_root(server, "viper")
    assert max(after.values()) / (sum(after.values()) / len(after)) < 1.1, after
    assert server.ok("GET", "/storage/stats")["components"]["viper"]["skew"] < 1.1
    for name in names:
        assert server.ok("POST", f"/collections/{name}/points/count", {"exact": True})["count"] == 300
    assert server.ok("POST", "/storage/rebalance?dry_run=true&component=viper")["moves"] == []


def test_e1_the_listings_at_a_start_do_not_grow_with_the_number_of_collections(servers):
    server = servers(roots=4).start()
    total = 500  # How long 10,000 take: tests/benchmarks/startup.py.

    def create(numbers):
        for n in numbers:
            server.ok("PUT", f"/collections/c{n}", schema("viper", 4))

    def listings_of_a_start():
        server.stop()
        server.start()
        counts = {root["url"]: root["operations"]["list"]["count"] for root in server.ok("GET", "/storage/roots")["roots"]}
        assert server.ok("GET", "/storage/stats")["collections"] == len(server.ok("GET", "/collections")["collections"])
        return counts

    create(range(20))
    few = listings_of_a_start()
    create(range(20, total))
    assert listings_of_a_start() == few
    assert len(server.ok("GET", "/collections")["collections"]) == total


def race(port, names, barrier, answers):
    """Creates and uses each collection at the same moment as everybody else."""

    def one(_):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for name in names:
            barrier.wait()
            created = send(connection, "PUT", f"/collections/{name}", schema("viper", 4))[0]
            used = send(connection, "PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]})[0]
            answers.put((name, created, used))
        connection.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_c2_64_threads_of_8_processes_create_one_home_and_move_the_counter_once(servers):
    server = servers(roots=4).start()
    context = multiprocessing.get_context("fork")
    names = [f"r{n}" for n in range(5)]
    barrier, answers = context.Barrier(64), context.Queue()
    processes = [context.Process(target=race, args=(server.port, names, barrier, answers)) for _ in range(8)]
    for process in processes:
        process.start()
    told = [answers.get(timeout=120) for _ in range(64 * len(names))]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    server.ok("PUT", "/collections/next", schema("viper", 4))
    where = {}
    for row in server.ok("GET", "/storage/assignments?component=wal")["assignments"]:
        where.setdefault(row["collection"], []).append(server.urls["wal"].index(row["storage_url"]))
    for n, name in enumerate([*names, "next"]):
        assert where[name] == [n % 4], where
    for name in names:
        created = sorted(status for of, status, _ in told if of == name)
        assert created == [200] + [409] * 63
        assert {used for of, _, used in told if of == name} == {200}
        assert server.ok("POST", f"/collections/{name}/points/count", {"exact": True})["count"] == 1


def added(server, component, url):
    """Adds a root while the server runs."""
    status, answer = server.request("POST", "/storage/roots", {"component": component, "url": url})
    assert status == 200, answer
    return answer["result"]


def test_k4_a_root_is_added_used_drained_and_removed_while_the_server_runs(servers):
    server = servers(roots=2, keys={"viper": {"distribution_strategy": "RoundRobin"}}).start()
    url = f"file://{server.base}/disk9/viper"
    for wrong in (server.urls["viper"][0], server.urls["viper"][0] + "/below", server.urls["wal"][0], "ftp://host/x"):
        status, answer = server.request("POST", "/storage/roots", {"component": "viper", "url": wrong})
        assert status == 400 and "url" in answer["status"]["error"], (wrong, status, answer)
    root = added(server, "viper", url)
    assert (root["url"], root["component"], root["state"], root["bytes"]) == (url, "viper", "online", 0)
    for n in range(6):
        server.ok("PUT", f"/collections/c{n}", schema("viper", 4))
        server.ok("PUT", f"/collections/c{n}/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]})
        server.ok("POST", f"/collections/c{n}/flush")
    held = {row["collection"] for row in server.ok("GET", "/storage/assignments?component=viper")["assignments"] if row["storage_url"] == url}
    assert len(held) == 2
    status, answer = server.request("DELETE", f"/storage/roots/{root['id']}")
    assert status in (400, 409) and all(name in answer["status"]["error"] for name in held) and "2" in answer["status"]["error"]
    drain(server, root)
    until(lambda: is_drained(server, "viper", root["id"]), "the drain")
    assert server.ok("DELETE", f"/storage/roots/{root['id']}") is True
    assert url not in [now["url"] for now in roots(server, "viper")]
    assert server.request("DELETE", f"/storage/roots/{root['id']}")[0] == 404


def test_k4_sighup_adds_new_urls_drains_lost_ones_and_ignores_a_bad_file(servers):
    server = servers(roots=2).start()
    log = server.base / "server.log"

    def reload(word):
        server.process.send_signal(signal.SIGHUP)
        until(lambda: word in log.read_text(), word)

    before = server.ok("GET", "/storage/roots")["roots"]
    good = server.config.read_text()
    server.config.write_text(good + "\n[storage.wal_config.nonsense]\n")
    reload("the configuration is wrong")
    assert [(root["id"], root["state"]) for root in server.ok("GET", "/storage/roots")["roots"]] == [(root["id"], root["state"]) for root in before]
    lost = server.urls["viper"].pop(0)
    server.write_config()
    server.config.write_text(server.config.read_text().replace("[server]", "[server]\nmax_request_size_mb = 7"))
    reload("reload: done")
    assert "server.max_request_size_mb" in log.read_text() and "needs a restart" in log.read_text()
    assert {root["url"]: root["state"] for root in roots(server, "viper")}[lost] == "draining"
    new = f"file://{server.base}/disk9/viper"
    server.urls["viper"].append(new)
    server.write_config()
    reload(new)
    # Its directory is reported before it is in service.
    until(lambda: {root["url"]: root["state"] for root in roots(server, "viper")}.get(new) == "online", "the new root")
