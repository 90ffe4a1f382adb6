"""The sample configurations: each is checked, started against the servers, used, and started again (A16)."""

import re

import pytest

from conftest import REPOSITORY
from test_placement import assert_readable, create

SAMPLES = sorted((REPOSITORY / "config").glob("*.toml"))
BUCKETS = ("proximadb-us-east-1", "proximadb-eu-west-1", "proximadb-serverless", "proximadb-edge")


@pytest.fixture(scope="module")
def clouds():
    """The buckets that the samples name, and the environment in which a cloud's usual chain finds its credentials."""
    from buckets import ObjectStore

    s3 = ObjectStore("s3", *(part for bucket in BUCKETS for part in ("--bucket", bucket)))
    azure = ObjectStore("azure", "--account", "proximadb", "--bucket", "westeurope")
    gcs = ObjectStore("gcs", "--bucket", "proximadb-asia-northeast1")
    yield {
        "AWS_ENDPOINT_URL": s3.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": s3.options["region"],
        "AWS_ACCESS_KEY_ID": s3.options["access_key_id"], "AWS_SECRET_ACCESS_KEY": s3.options["secret_access_key"],
        "AZURE_STORAGE_ENDPOINT": azure.endpoint, "AZURE_STORAGE_ACCOUNT_KEY": azure.options["account_key"], "AZURE_ALLOW_HTTP": "true",
        "GOOGLE_BASE_URL": gcs.endpoint, "GOOGLE_BEARER_TOKEN": gcs.options["bearer_token"], "GOOGLE_ALLOW_HTTP": "true",
    }
    for store in (s3, azure, gcs):
        store.close()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a16_every_sample_is_valid_starts_and_finds_everything_again(servers, clouds, sample):
    server = servers(kinds=["disk"])
    # As shipped, but for the directories of the machine and the port.
    text = sample.read_text().replace("file:///", f"file://{server.base}/")
    server.config.write_text(text)
    server.urls = {}
    environment = clouds | {"PROXIMADB__SERVER__LISTEN": f"127.0.0.1:{server.port}"}
    server.variables = lambda: environment
    checked = server.command("config", "check")
    assert checked.returncode == 0, checked.stderr
    names = [f"c{n}" for n in range(4)]
    server.start()
    create(server, names)
    server.ok("POST", "/collections/c0/flush")
    configured = set(re.findall(r'"((?:file|s3|gcs|adls)://[^"]+)"', text))
    roots = server.ok("GET", "/storage/roots")["roots"]
    assert roots and all(root["state"] == "online" for root in roots), roots
    assert all(any(root["url"].startswith(url) for url in configured) for root in roots), "URLs stay as they are written"
    server.kill()
    server.start()
    assert_readable(server, names)


def test_a16_the_serverless_sample_says_what_the_design_says():
    sample = (REPOSITORY / "config" / "serverless.toml").read_text()
    assert "memory_flush_size_bytes = 2097152" in sample and sample.count('distribution_strategy = "Hash"') == 5
