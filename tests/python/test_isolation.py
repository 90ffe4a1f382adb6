"""One disk of four fails in every way a disk can, and costs only its own collections (issue 3, Shows 2; K2, K3, E12).

Four disks, each a file system of its own with a root of all five components. Each of eight collections lives on one of
them (round robin) and is written and searched all the time. One disk is filled up, unplugged, turned read-only or hangs.
The collections of the others must not notice: no error, and a p99 of at most twice that of before the fault plus 50 ms
(this machine is shared and the load generator is Python; the comparison is repeated once). The collections of the failed
disk either go on or fail with an error that names the root. When the fault has ended everything that was acknowledged is
there, and again after a restart.
"""

import http.client
import random
import threading
import time

import pytest

from conftest import SECTIONS, send

COLLECTIONS = [f"c{n}" for n in range(8)]
COMPONENTS_OF_DATA = ("wal", "viper", "lsm", "index")
DIM = 8
IDS = 200
ALLOWANCE_MS = 50
VICTIM = 1


def vector(stamp):
    return [float((stamp * (n + 3)) % 8191) / 8 + 1 for n in range(DIM)]


class Load(threading.Thread):
    """Writes and searches one collection, and knows what each point may be: the last acknowledged state, and those of
    later writes that were not acknowledged."""

    def __init__(self, server, name):
        super().__init__(daemon=True)
        self.server, self.name = server, name
        self.random = random.Random(name)
        self.possible = {}
        self.answers = []  # (when, ms, operation, status, text)
        self.stopping = threading.Event()
        self.writing = threading.Event()
        self.writing.set()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=90)
        while not self.stopping.is_set():
            if self.writing.is_set():
                self.write(connection)
            self.call(connection, "search", "POST", "/points/query", {"query": vector(self.random.randrange(1 << 16)), "limit": 5})
            time.sleep(0.02)

    def call(self, connection, operation, method, path, body):
        start = time.monotonic()
        try:
            status, answer = send(connection, method, f"/collections/{self.name}{path}", body)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status, answer = 0, repr(error)
        now = time.monotonic()
        text = "" if status == 200 else str(answer)
        self.answers.append((start, (now - start) * 1e3, operation, status, text))
        return status

    def write(self, connection):
        stamp = self.random.randrange(1 << 30)
        points = {i: stamp + i for i in self.random.sample(range(IDS), 4)}
        for i, state in points.items():
            self.possible.setdefault(i, {None}).add(state)
        body = {"points": [{"id": i, "vector": vector(s), "payload": {"stamp": s, "text": "x" * 500}} for i, s in points.items()]}
        if self.call(connection, "write", "PUT", "/points?wait=true", body) == 200:
            for i, state in points.items():
                self.possible[i] = {state}

    def since(self, start, end):
        return [answer for answer in list(self.answers) if start <= answer[0] < end]


class Disks:
    """The disks of a test, the server on them, and the load."""

    def __init__(self, server, paths):
        self.server, self.paths = server, paths
        server.start()
        for name in COLLECTIONS:
            server.ok("PUT", f"/collections/{name}", {"vectors": {"size": DIM, "distance": "Euclid"}})
        found = server.ok("GET", "/storage/assignments")["assignments"]
        victim = f"file://{paths[VICTIM]}/"
        self.hit = {
            entry["collection"]
            for entry in found
            if entry["storage_url"].startswith(victim) and entry["component"] in COMPONENTS_OF_DATA
        }
        self.spared = [name for name in COLLECTIONS if name not in self.hit]
        assert len(self.hit) == 2, "a collection lives on one disk"
        self.loads = {name: Load(server, name) for name in COLLECTIONS}
        for load in self.loads.values():
            load.start()

    def run(self, seconds):
        """Lets the load run; the window it ran in."""
        start = time.monotonic()
        time.sleep(seconds)
        return start, time.monotonic()

    def p99_of_spared(self, window):
        latencies = sorted(a[1] for name in self.spared for a in self.loads[name].since(*window))
        assert len(latencies) > 200, "the load did not run"
        return latencies[int(len(latencies) * 0.99)]

    def errors_of_spared(self, window):
        return [a for name in self.spared for a in self.loads[name].since(*window) if a[3] != 200]

    def check_hit(self, window):
        """What the collections of the failed disk were told: nothing but success, or which root it is."""
        for name in self.hit:
            for answer in self.loads[name].since(*window):
                assert answer[3] == 200 or str(self.paths[VICTIM]) in answer[4], answer

    def states(self):
        roots = self.server.ok("GET", "/storage/roots")["roots"]
        return {root["url"]: root for root in roots}

    def wait_for_all_online(self):
        deadline = time.monotonic() + 60
        while any(root["state"] != "online" for root in self.states().values()):
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.1)

    def stop_load(self):
        for load in self.loads.values():
            load.stopping.set()
        for load in self.loads.values():
            load.join(timeout=120)
            assert not load.is_alive(), f"{load.name} still waits for an answer"

    def check_content(self):
        for name, load in self.loads.items():
            stored, offset = {}, None
            while True:
                body = {"limit": 1000, "offset": offset, "with_payload": True}
                page = self.server.ok("POST", f"/collections/{name}/points/scroll", body)
                stored |= {point["id"]: point["payload"]["stamp"] for point in page["points"]}
                offset = page["next_page_offset"]
                if offset is None:
                    break
            wrong = {i: (stored.get(i), states) for i, states in load.possible.items() if stored.get(i) not in states}
            assert not wrong, (name, wrong)


def disks(servers, paths):
    urls = {component: [f"file://{path}/{component}" for path in paths] for component in SECTIONS}
    keys = {component: {"distribution_strategy": "RoundRobin"} for component in SECTIONS}
    keys["wal"]["memory_flush_size_bytes"] = 1 << 20
    return Disks(servers(urls=urls, keys=keys), paths)


def isolate(of, fail, heal, seconds):
    """The whole course of one failure."""
    of.run(2)  # Warm.
    slowest = None
    for attempt in (1, 2):
        before = of.p99_of_spared(of.run(4))
        fail()
        window = of.run(seconds)
        states = of.states()
        bad = [root for url, root in states.items() if str(of.paths[VICTIM]) in url and root["state"] != "online"]
        assert bad and all(root["reason"] and root["since_ms"] > 0 for root in bad), states
        assert all(root["state"] == "online" for url, root in states.items() if str(of.paths[VICTIM]) not in url), states
        during = of.p99_of_spared(window)
        errors = of.errors_of_spared(window)
        heal()
        assert not errors, errors[:5]
        of.check_hit(window)
        of.wait_for_all_online()
        print(f"p99 of the other disks: {before:.1f} ms before, {during:.1f} ms during the fault (attempt {attempt})")
        slowest = (before, during)
        if during <= 2 * before + ALLOWANCE_MS:
            break
    assert slowest[1] <= 2 * slowest[0] + ALLOWANCE_MS, slowest
    settled = of.run(3)
    of.stop_load()
    unhappy = [a for load in of.loads.values() for a in load.since(*settled)[-10:] if a[3] != 200]
    assert not unhappy, unhappy[:5]
    of.check_content()
    of.server.stop()
    of.server.start()
    of.check_content()


def test_e12_k3_a_disk_that_fills_up(servers, tmpfs):
    mounted = [tmpfs(size, f"disk{n}") for n, size in enumerate(["256m", "48m", "192m", "320m"])]
    of = disks(servers, [disk.path for disk in mounted])
    ballast = []
    isolate(of, lambda: ballast.append(mounted[VICTIM].fill()), lambda: ballast.pop().unlink(), 6)


def test_e12_k3_a_disk_that_is_unplugged_under_load(servers, tmpfs):
    mounted = [tmpfs(size, f"disk{n}") for n, size in enumerate(["256m", "128m", "192m", "320m"])]
    of = disks(servers, [disk.path for disk in mounted])
    victim = mounted[VICTIM]
    isolate(of, victim.unplug, victim.plug, 6)


@pytest.mark.parametrize("fault", ["error EROFS", "error EIO"])
def test_e12_k3_a_disk_that_turns_read_only_or_fails_under_open_files(servers, tmpfs, faultfs, fault):
    """`mount -o remount,ro` is refused while the log is open; a disk whose kernel gave it up is not that polite."""
    mounted = [tmpfs(size, f"disk{n}" if n != VICTIM else "below") for n, size in enumerate(["256m", "128m", "192m", "320m"])]
    victim = faultfs(mounted[VICTIM].path, f"disk{VICTIM}")
    of = disks(servers, [disk.path if n != VICTIM else victim.path for n, disk in enumerate(mounted)])
    isolate(of, lambda: victim.set(fault), victim.set, 6)


def test_e12_k2_k3_a_disk_that_hangs(servers, tmpfs, faultfs):
    mounted = [tmpfs(size, f"disk{n}" if n != VICTIM else "below") for n, size in enumerate(["256m", "128m", "192m", "320m"])]
    victim = faultfs(mounted[VICTIM].path, f"disk{VICTIM}")
    of = disks(servers, [disk.path if n != VICTIM else victim.path for n, disk in enumerate(mounted)])
    # Longer than an operation may take, so that it is known to hang.
    isolate(of, lambda: victim.set("hang"), victim.set, 16)


def test_k3_a_server_whose_disk_hangs_stops_all_the_same(servers, tmpfs, faultfs):
    mounted = [tmpfs("128m", f"disk{n}" if n != VICTIM else "below") for n in range(4)]
    victim = faultfs(mounted[VICTIM].path, f"disk{VICTIM}")
    of = disks(servers, [disk.path if n != VICTIM else victim.path for n, disk in enumerate(mounted)])
    of.run(1)
    victim.set("hang")
    of.run(1)
    process = of.server.process
    process.terminate()
    # The kernel keeps threads that wait for the disk, and with them the process; what we can do is to have left.
    deadline = time.monotonic() + 60
    while process.poll() is None and state_of(process.pid) != "Z":
        assert time.monotonic() < deadline, "the server waits for the disk"
        time.sleep(0.1)
    victim.set()
    process.wait(timeout=30)
    of.stop_load()
    of.server.start()
    of.check_content()


def state_of(pid):
    """State of a process's first thread: Z when the program has ended."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


def test_e10_a_mount_point_without_its_disk_is_not_written(servers, tmpfs, tmp_path):
    disk = tmpfs("64m", "viper-disk")
    urls = {c: [f"file://{tmp_path}/rest/{c}"] for c in SECTIONS}
    urls["viper"] = [f"file://{disk.path}"]
    server = servers(urls=urls).start()
    server.ok("PUT", "/collections/c", {"vectors": {"size": DIM, "distance": "Euclid"}})
    server.ok("PUT", "/collections/c/points?wait=true", {"points": [{"id": 1, "vector": vector(1)}]})
    disk.unplug()
    status, answer = server.request("POST", "/collections/c/flush")
    assert status == 503 and urls["viper"][0] in str(answer), answer
    assert list(disk.path.iterdir()) == []
    disk.plug()
    deadline = time.monotonic() + 30
    while any(root["state"] != "online" for root in server.ok("GET", "/storage/roots")["roots"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.ok("POST", "/collections/c/flush")
    server.kill()
    server.start()
    assert server.ok("POST", "/collections/c/points/count", {})["count"] == 1
