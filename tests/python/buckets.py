"""Object stores for the tests: S3, Azure and Google Cloud Storage servers (tests/servers), each started once a session."""

import itertools
import json
import pathlib
import subprocess
import sys
import urllib.request

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "servers" / "servers.py"
KINDS = ("s3", "azure", "gcs")
numbers = itertools.count()


class TestServer:
    """A server of `tests/servers`; it ends with its standard input, however this process ends."""

    __test__ = False

    def __init__(self, kind, *arguments):
        self.kind, self.facts = kind, {}
        self.script = subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for line in self.script.stdout:
            if line.strip() == "READY":
                break
            key, _, value = line.strip().partition("=")
            self.facts[key] = value
        else:
            pytest.fail(f"the {kind} server did not start")

    def close(self):
        self.script.stdin.close()
        self.script.wait()


class ObjectStore(TestServer):
    """A server with a bucket. `options` are those of `[storage.credentials]`."""

    @property
    def url(self):
        return self.facts["URL"]

    @property
    def endpoint(self):
        return self.facts["ENDPOINT"]

    @property
    def options(self):
        return {key.removeprefix("OPTION_"): value for key, value in self.facts.items() if key.startswith("OPTION_")}

    def place(self):
        """The URL of a prefix that no other test has."""
        return f"{self.url}/place-{next(numbers)}"

    def variables(self, endpoint=None):
        """Option → (environment variable, value): what a configuration names and what it stands for."""
        options = self.options | ({"endpoint": endpoint} if endpoint else {})
        return {name: (f"TEST_{self.kind}_{name}".upper(), value) for name, value in options.items()}


class Faults(TestServer):
    """A proxy in front of a store that misbehaves on request (tests/servers/fault-proxy.mjs has the rules)."""

    def __init__(self, store):
        address, _, path = store.endpoint.removeprefix("http://").partition("/")
        super().__init__("faults", "--target", address)
        self.address = self.facts["ENDPOINT"]
        self.endpoint = f"{self.address}/{path}".rstrip("/")

    def request(self, method, what, body=None):
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(f"{self.address}/_fault/{what}", data, method=method)
        with urllib.request.urlopen(call, timeout=60) as answer:
            return json.load(answer)

    def set(self, *rules):
        """Puts these rules in force instead of the old ones, and forgets the log."""
        return self.request("PUT", "rules", list(rules))

    def rules(self):
        """The rules, each with how often it matched (seen) and fired (hit)."""
        return self.request("GET", "rules")

    def log(self):
        """The last 1,000 requests: method, path, query, status, fault, began and ended (ms)."""
        return self.request("GET", "log")

    def forget(self):
        """The log, which is empty from now on."""
        return self.request("DELETE", "log")


@pytest.fixture(scope="session")
def stores():
    """A factory of object stores: `stores("s3")`; each is started once, at its first use."""
    running = {}

    def store(kind):
        if kind not in running:
            running[kind] = ObjectStore(kind)
        return running[kind]

    yield store
    for server in running.values():
        server.close()


@pytest.fixture
def own_store():
    """A factory of stores that one test has for itself: `own_store("s3", "--bucket", "b")`."""
    yield from closing(ObjectStore)


@pytest.fixture
def faults():
    """A factory of fault proxies: `faults(store)`."""
    yield from closing(Faults)


def closing(kind):
    """A factory whose servers end with the test."""
    running = []

    def make(*arguments):
        running.append(kind(*arguments))
        return running[-1]

    yield make
    for server in running:
        server.close()
