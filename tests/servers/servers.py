#!/usr/bin/env python3
"""Object-store servers for the tests, on loopback: installs what they need (pinned, once) and runs one of them.

    servers.py install                              everything, and nothing is started
    servers.py s3     [--bucket B]… [--access-key K] [--secret-key S] [--region R] [--r2]       moto behind s3-server.py
    servers.py azure  [--bucket B]… [--account A]                                        Azurite
    servers.py gcs    [--bucket B]… [--token T] [--mutation-interval MS] [--versioning]  gcs-server.mjs
    servers.py faults --target HOST:PORT            fault-proxy.mjs, a proxy that misbehaves on request

A server takes a free port. When it answers, what a client needs is printed as KEY=VALUE lines and a line `READY`. It
runs until the standard input of this script is closed, so it never outlives the process that started it, however that
one ends. Options of the root are printed as `OPTION_<name>=<value>`, as `[storage.credentials]` names them.

What is installed goes to target/servers (or $PROXIMADB_TEST_SERVERS), which is worth keeping between runs.
Needs Python with venv, and node with npm.
"""

import argparse
import base64
import ctypes
import fcntl
import hashlib
import hmac
import http.client
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from email.utils import formatdate

HERE = pathlib.Path(__file__).resolve().parent
INSTALLED = pathlib.Path(os.environ.get("PROXIMADB_TEST_SERVERS") or HERE.parents[1] / "target" / "servers")
# The published account of Azure's emulator: not a secret.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
READY_SECONDS = 120
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


# ---- installing ------------------------------------------------------------

def install(name, inputs, steps):
    """Runs `steps` unless they ran before for the same inputs. One process at a time; a failed download is repeated."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs) + sys.version.encode()).hexdigest()
    stamp = INSTALLED / f"{name}.stamp"
    with open(INSTALLED / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"installing {name} for the test servers", file=sys.stderr)
        shutil.rmtree(INSTALLED / name, ignore_errors=True)
        for step in steps(INSTALLED / name):
            repeat(step)
        stamp.write_text(wanted)


def repeat(command, attempts=4):
    for attempt in range(attempts):
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return
        time.sleep(2 ** attempt)
    sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout.decode(errors='replace')[-4000:]}")


def install_s3():
    def steps(place):
        yield [sys.executable, "-m", "venv", place]
        yield [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "5",
               "--only-binary", ":all:", "--no-deps", "-r", HERE / "requirements.txt"]
    install("s3", [HERE / "requirements.txt"], steps)
    return INSTALLED / "s3" / "bin" / "python"


def install_azure():
    def steps(place):
        place.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(HERE / file, place)
        yield ["npm", "ci", "--prefix", place, "--no-audit", "--no-fund", "--omit=optional", "--omit=dev",
               "--ignore-scripts", "--fetch-retries=5"]
    install("azure", [HERE / "package.json", HERE / "package-lock.json"], steps)
    return INSTALLED / "azure" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


# ---- running ---------------------------------------------------------------

def end_with_parent():
    """The server is killed when this script ends, also by kill -9."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command, log, environment=None):
    """Starts a server and returns it with its port, which it prints."""
    with open(log, "wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   cwd=log.parent, preexec_fn=end_with_parent, env={**os.environ, **(environment or {})})
    deadline = time.monotonic() + READY_SECONDS
    while True:
        text = log.read_text(errors="replace")
        if found := re.search(r"listen\w* on http://127\.0\.0\.1:(\d+)", text):
            return process, int(found[1])
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{command[0]} did not start:\n{text[-4000:]}")
        time.sleep(0.05)


def s3(args, folder):
    command = [install_s3(), HERE / "s3-server.py", "--port", 0, "--access-key", args.access_key, "--secret-key", args.secret_key,
               "--region", args.region, *(["--r2"] if args.r2 else []), *(part for bucket in args.bucket for part in ("--bucket", bucket))]
    process, port = start(command, folder / "log", {"TMPDIR": str(folder), "PYTHONNOUSERSITE": "1"})
    endpoint = f"http://127.0.0.1:{port}"
    return process, {
        "URL": f"s3://{args.bucket[0]}", "ENDPOINT": endpoint, "OPTION_endpoint": endpoint, "OPTION_region": args.region,
        "OPTION_access_key_id": args.access_key, "OPTION_secret_access_key": args.secret_key,
    }


def azure(args, folder):
    command = ["node", "--require", HERE / "azurite-keepalive.cjs", install_azure(), "--blobHost", "127.0.0.1", "--blobPort", 0,
               "--location", folder, "--skipApiVersionCheck", "--disableTelemetry"]
    process, port = start(command, folder / "log", {"AZURITE_ACCOUNTS": f"{args.account}:{AZURE_KEY}"})
    for container in args.bucket:
        create_container(port, args.account, container)
    endpoint = f"http://127.0.0.1:{port}/{args.account}"
    return process, {
        "URL": f"adls://{args.account}.dfs.core.windows.net/{args.bucket[0]}", "ENDPOINT": endpoint,
        "OPTION_endpoint": endpoint, "OPTION_account_key": AZURE_KEY,
    }


def create_container(port, account, container):
    date, version = formatdate(usegmt=True), "2021-08-06"
    to_sign = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{container}\nrestype:container"
    mac = base64.b64encode(hmac.new(base64.b64decode(AZURE_KEY), to_sign.encode(), hashlib.sha256).digest()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    connection.request("PUT", f"/{account}/{container}?restype=container", headers={
        "x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{mac}", "Content-Length": "0"})
    answer = connection.getresponse()
    if answer.status != 201:
        sys.exit(f"the container {container} was not created: {answer.status} {answer.read()}")


def gcs(args, folder):
    command = ["node", HERE / "gcs-server.mjs", "--port", 0, "--data", folder / "data", "--token", args.token,
               "--mutation-interval", args.mutation_interval, *(["--versioning"] if args.versioning else []),
               *(part for bucket in args.bucket for part in ("--bucket", bucket))]
    process, port = start(command, folder / "log")
    endpoint = f"http://127.0.0.1:{port}"
    return process, {"URL": f"gcs://{args.bucket[0]}", "ENDPOINT": endpoint, "OPTION_endpoint": endpoint, "OPTION_bearer_token": args.token}


def faults(args, folder):
    process, port = start(["node", HERE / "fault-proxy.mjs", "--target", args.target, "--seed", args.seed], folder / "log")
    return process, {"ENDPOINT": f"http://127.0.0.1:{port}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["install", "s3", "azure", "gcs", "faults"])
    parser.add_argument("--bucket", action="append", help="buckets (containers) to create; the first is the one of URL")
    parser.add_argument("--access-key", default="test-key-id")
    parser.add_argument("--secret-key", default="test-secret-of-s3")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--r2", action="store_true", help="the S3 server answers as Cloudflare R2")
    parser.add_argument("--account", default=AZURE_ACCOUNT)
    parser.add_argument("--token", default="test-token-of-gcs")
    parser.add_argument("--mutation-interval", default="0")
    parser.add_argument("--versioning", action="store_true")
    parser.add_argument("--target", help="host:port of the server behind the fault proxy")
    parser.add_argument("--seed", default="1")
    args = parser.parse_args()
    args.bucket = args.bucket or ["test"]
    if args.kind == "install":
        install_s3()
        install_azure()
        return
    # An end by signal still cleans up.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix=f"test-server-{args.kind}-") as folder:
        process, facts = {"s3": s3, "azure": azure, "gcs": gcs, "faults": faults}[args.kind](args, pathlib.Path(folder))
        try:
            print(*(f"{key}={value}" for key, value in facts.items()), "READY", sep="\n", flush=True)
            threading.Thread(target=exit_with_server, args=(process,), daemon=True).start()
            while os.read(sys.stdin.fileno(), 4096):
                pass
        finally:
            process.kill()
            process.wait()


def exit_with_server(process):
    """A server that dies by itself ends the script, so that whoever uses it notices."""
    process.wait()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
