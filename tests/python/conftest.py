"""Starts real ProximaDB servers for the tests: the binary of `./test` (or `PROXIMADB_BINARY`), real directories, a free port."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pyarrow.parquet as pq
import pytest

from buckets import faults, own_store, stores  # noqa: F401 (fixtures)
from faults import faultfs, faultfs_binary, tmpfs  # noqa: F401 (fixtures)

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("PROXIMADB_BINARY", REPOSITORY / "target" / "checked" / "proximadb"))
SAMPLE = REPOSITORY / "data" / "packages-5k.parquet"
SECTIONS = {
    "wal": ("wal_config", "wal_urls"),
    "viper": ("viper_config", "data_urls"),
    "lsm": ("lsm_config", "storage_urls"),
    "index": ("index_config", "index_urls"),
    "metadata": ("collection_metadata_config", "metadata_urls"),
}


# Where the roots of the tests are: on disk, in the buckets of one cloud, or on each kind in turn.
ROOTS = {"disk": ["disk"], "s3": ["s3"], "azure": ["azure"], "gcs": ["gcs"], "mixed": ["disk", "s3", "azure", "gcs"]}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def anonymous(server):
    """Bytes of the process that are in no file."""
    lines = pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """Most bytes of the process that are in no file, within a `with` block."""

    def __init__(self, server):
        self.server, self.bytes, self.done = server, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def watch(self):
        while not self.done.wait(0.02):
            self.bytes = max(self.bytes, anonymous(self.server))


def until(condition, what, seconds=60):
    """Polls until `condition` gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


class Server:
    """One server process over `roots` roots per component; `keys` adds `section.key = value` lines.

    `kinds` are those of the roots in turn: `disk` (a directory below `base`), `s3`, `azure` or `gcs` (a bucket of `stores`).
    `endpoints` lets the requests to a kind go elsewhere: through a fault proxy.
    """

    def __init__(self, base, roots=3, keys=None, urls=None, kinds=("disk",), stores=None, endpoints=None):
        self.base = pathlib.Path(base)
        self.port = free_port()
        self.process = None
        self.stores = {kind: stores(kind) for kind in kinds if kind != "disk"}
        self.endpoints = endpoints or {}
        self.places = [self.place(kinds[n % len(kinds)], n) for n in range(roots)]
        self.urls = urls or {component: [f"{place}/{component}" for place in self.places] for component in SECTIONS}
        self.keys = keys or {}
        self.write_config()

    def place(self, kind, number):
        """The URL below which one root of each component lies."""
        return f"file://{self.base}/disk{number}" if kind == "disk" else self.stores[kind].place()

    def variables(self):
        """The credentials of the buckets, as environment."""
        named = [self.stores[kind].variables(self.endpoints.get(kind)) for kind in self.stores]
        return {name: value for options in named for name, value in options.values()}

    def write_config(self):
        lines = ["[server]", f'listen = "127.0.0.1:{self.port}"']
        used = [url for urls in self.urls.values() for url in urls]
        for kind, store in self.stores.items():
            if any(url.startswith(f"{store.url}/") for url in used):
                lines += [f'[storage.credentials."{store.url}"]']
                lines += [f'{option} = "{name}"' for option, (name, _) in store.variables(self.endpoints.get(kind)).items()]
        for component, (section, key) in SECTIONS.items():
            lines += [f"[storage.{section}]", f"{key} = {json.dumps(self.urls[component])}"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in self.keys.get(component, {}).items()]
        self.config = self.base / "proximadb.toml"
        self.base.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(lines) + "\n")

    def command(self, *arguments, **options):
        """Runs a command of the binary with this server's configuration."""
        call = [str(BINARY), *arguments, "--config", str(self.config)]
        environment = {**os.environ, **self.variables()}
        return subprocess.run(call, capture_output=True, text=True, timeout=120, env=environment, **options)

    def start(self, wrapper=()):
        log = open(self.base / "server.log", "ab")
        command = [*wrapper, str(BINARY), "serve", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.variables()})
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            assert self.process.poll() is None, (self.base / "server.log").read_text()[-4000:]
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.01)

    def kill(self):
        """kill -9, as a power cut of the process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def request(self, method, path, body=None):
        """One request on a connection of its own; the answer's status and JSON (or text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            return send(connection, method, path, body)
        finally:
            connection.close()

    def ok(self, method, path, body=None):
        """As `request`, but anything but 200 fails the test; returns `result`."""
        status, answer = self.request(method, path, body)
        assert status == 200, f"{method} {path}: {status} {answer}"
        return answer["result"]

    def path(self, url):
        return pathlib.Path(url.removeprefix("file://"))

    def listing(self, url):
        """The files of a root, wherever it is: relative path → size."""
        if store := self.store(url):
            return store.listing(url)
        base = self.path(url)
        return {str(file.relative_to(base)): file.stat().st_size for file in base.rglob("*") if file.is_file()}

    def read(self, url, relative):
        """The bytes of a file of a root, wherever it is."""
        store = self.store(url)
        return store.read(url, relative) if store else (self.path(url) / relative).read_bytes()

    def remove(self, url, relative):
        """Deletes a file of a root behind the server's back."""
        store = self.store(url)
        return store.remove(url, relative) if store else (self.path(url) / relative).unlink()

    def store(self, url):
        """The object store of a URL; `None` for a directory."""
        return next((store for store in self.stores.values() if url.startswith(f"{store.url}/")), None)

    def files(self, component, suffix):
        """All files of a component with this suffix, over all of its roots."""
        return sorted(f for url in self.urls[component] for f in self.path(url).rglob(f"*{suffix}"))


def send(connection, method, path, body=None):
    payload = None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text.decode(errors="replace")


@pytest.fixture
def servers(tmp_path, stores):
    """A factory of servers that are stopped at the end of the test. PROXIMADB_TEST_ROOTS says where their roots are."""
    started = []

    def make(name="db", **options):
        kinds = ROOTS[os.environ.get("PROXIMADB_TEST_ROOTS", "disk")]
        server = Server(tmp_path / name, **{"kinds": kinds, "stores": stores, **options})
        started.append(server)
        return server

    yield make
    for server in started:
        if server.process and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def packages():
    """The sample: 5,000 package descriptions with their vectors, as points."""
    rows = pq.read_table(SAMPLE).to_pylist()
    return [{"id": row.pop("id"), "vector": row.pop("vector"), "payload": row} for row in rows]
