"""Object stores for the tests: S3, Azure and Google Cloud Storage servers (tests/servers), each started once a session."""

import base64
import datetime
import email.utils
import hashlib
import hmac
import itertools
import json
import pathlib
import subprocess
import sys
import urllib.request

import pytest
from pyarrow import fs as arrow

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

    def filesystem(self):
        """The store through a client that is not ours."""
        host, options = self.endpoint.removeprefix("http://"), self.options
        if self.kind == "s3":
            return arrow.S3FileSystem(
                access_key=options["access_key_id"], secret_key=options["secret_access_key"], region=options["region"],
                endpoint_override=host, scheme="http",
            )
        if self.kind == "azure":
            address, _, account = host.partition("/")
            return arrow.AzureFileSystem(
                account_name=account, account_key=options["account_key"], blob_storage_authority=address, dfs_storage_authority=address,
                blob_storage_scheme="http", dfs_storage_scheme="http",
            )
        expiration = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
        return arrow.GcsFileSystem(
            access_token=options["bearer_token"], credential_token_expiration=expiration, endpoint_override=host, scheme="http",
        )

    def path(self, url):
        """Bucket and prefix of a URL of this store."""
        return url.removeprefix(self.url.rsplit("/", 1)[0]).strip("/")

    def listing(self, url):
        """The files below a URL of this store: relative path → size."""
        base = self.path(url)
        found = self.filesystem().get_file_info(arrow.FileSelector(base, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(f"{base}/"): info.size for info in found if info.is_file}

    def read(self, url, relative):
        with self.filesystem().open_input_stream(f"{self.path(url)}/{relative}") as file:
            return file.read()

    def remove(self, url, relative):
        """Deletes a file; Arrow's client leaves markers of directories behind, and takes its time."""
        key = f"{self.path(url)}/{relative}"
        if self.kind == "s3":
            call = urllib.request.Request(f"{self.endpoint}/_emulator/delete/{key}", method="POST")
        elif self.kind == "gcs":
            headers = {"Authorization": f"Bearer {self.options['bearer_token']}"}
            call = urllib.request.Request(f"{self.endpoint}/{key}", method="DELETE", headers=headers)
        else:
            account = self.endpoint.rsplit("/", 1)[1]
            stamps = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
            signed = "DELETE" + "\n" * 12 + "".join(f"{name}:{value}\n" for name, value in stamps.items()) + f"/{account}/{account}/{key}"
            mac = hmac.new(base64.b64decode(self.options["account_key"]), signed.encode(), hashlib.sha256).digest()
            headers = stamps | {"Authorization": f"SharedKey {account}:{base64.b64encode(mac).decode()}"}
            call = urllib.request.Request(f"{self.endpoint}/{key}", method="DELETE", headers=headers)
        urllib.request.urlopen(call, timeout=60).close()

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
