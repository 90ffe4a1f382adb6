#!/usr/bin/env python3
"""An S3 server for tests: moto's S3 backend behind waitress, made safe for concurrency.

moto implements the S3 protocol well (If-Match / If-None-Match on PutObject and
CompleteMultipartUpload, versioning, multipart, multi-object delete), but its own
`moto_server` is not usable for testing commits:
  * its check of the condition and its write are two steps, and its threads race
    (a GET that meets an overwrite answers 500 "read of closed file");
  * it accepts any signature.
Here one lock makes each request atomic (the body has arrived before the lock is
taken), and AWS Signature Version 4 (header and presigned form) and the payload
hash are checked, so a wrong secret or a damaged body is refused as S3 refuses it.
With --r2 it answers where R2 differs (see `r2_refusal`).
State is in memory (bodies over 16 MiB in temporary files) and lost at exit.
"""
import argparse
import hashlib
import hmac
import os
import re
import socket
import threading
import time
from urllib.parse import parse_qsl, quote, unquote

ap = argparse.ArgumentParser()
ap.add_argument("--host", default="127.0.0.1")
ap.add_argument("--port", type=int, default=9000, help="0 takes a free one; it is printed")
ap.add_argument("--bucket", action="append", default=[], help="create at start")
ap.add_argument("--access-key", default="test")
ap.add_argument("--secret-key", default="testtest")
ap.add_argument("--region", default="us-east-1")
ap.add_argument("--no-auth", action="store_true", help="accept any or no signature")
ap.add_argument("--r2", action="store_true", help="answer as Cloudflare R2")
ap.add_argument("--threads", type=int, default=16)
args = ap.parse_args()
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((args.host, args.port))
listener.listen(512)
args.port = listener.getsockname()[1]

# moto must never reach a real AWS endpoint nor read real credentials.
os.environ.update(AWS_ACCESS_KEY_ID=args.access_key, AWS_SECRET_ACCESS_KEY=args.secret_key,
                  AWS_DEFAULT_REGION=args.region, AWS_EC2_METADATA_DISABLED="true",
                  AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null",
                  MOTO_PORT=str(args.port), S3_IGNORE_SUBDOMAIN_BUCKETNAME="true")

import logging  # noqa: E402

import waitress  # noqa: E402
from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY  # noqa: E402
from waitress.channel import HTTPChannel  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.moto_server.werkzeug_app import create_backend_app  # noqa: E402
from moto.s3.models import s3_backends  # noqa: E402

logging.getLogger("waitress.queue").setLevel(logging.ERROR)
LOCK = threading.Lock()


class Parser(HTTPChannel.parser_class):
    """Keeps metadata headers with an underscore in the name, which WSGI servers drop."""

    meta_names = {}

    def parse_header(self, header_plus):
        super().parse_header(header_plus)
        found = re.findall(rb"^(x-amz-meta-[^:\s]*_[^:\s]*):[ \t]*(.*?)[ \t]*\r?$", header_plus, re.I | re.M)
        self.meta_names = {}
        for name, value in found:
            name = name.decode("latin-1")
            key = name.upper().replace("-", "_")
            self.headers[key] = value.decode("latin-1")
            self.meta_names["HTTP_" + key] = name


class Task(HTTPChannel.task_class):
    def get_environment(self):
        env = super().get_environment()
        env["RAW_URI"] = env["REQUEST_URI"]
        env[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = self.request.meta_names
        return env


HTTPChannel.parser_class = Parser
HTTPChannel.task_class = Task


def error(start_response, status, code, message):
    body = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{message}</Message><RequestId>0</RequestId></Error>").encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def headers_of(env):
    names = env[PRESERVED_HEADER_NAMES_ENVIRON_KEY]
    h = {names.get(k, k[5:].replace("_", "-")).lower(): v for k, v in env.items() if k.startswith("HTTP_")}
    for k in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if env.get(k):
            h[k.replace("_", "-").lower()] = env[k]
    return h


def _sign(key, msg):
    return hmac.new(key, msg.encode(), hashlib.sha256).digest()


def check_signature(env, h):
    """None, or (status, code, message). Signature Version 4, service s3."""
    raw_path = env["RAW_URI"].split("?", 1)[0]
    raw_query = env.get("QUERY_STRING", "")
    query = parse_qsl(raw_query, keep_blank_values=True)
    q = dict(query)
    auth = h.get("authorization", "")
    if "X-Amz-Signature" in q:
        cred, signed, given = q.get("X-Amz-Credential", ""), q.get("X-Amz-SignedHeaders", ""), q["X-Amz-Signature"]
        date, payload = q.get("X-Amz-Date", ""), h.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        query = [(k, v) for k, v in query if k != "X-Amz-Signature"]
        try:
            t = time.mktime(time.strptime(date, "%Y%m%dT%H%M%SZ")) - time.timezone
            if time.time() > t + int(q.get("X-Amz-Expires", "0")):
                return "403 Forbidden", "AccessDenied", "Request has expired"
        except ValueError:
            return "400 Bad Request", "AuthorizationQueryParametersError", "Malformed X-Amz-Date"
    elif auth.startswith("AWS4-HMAC-SHA256"):
        f = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", auth))
        cred, signed, given = f.get("Credential", ""), f.get("SignedHeaders", ""), f.get("Signature", "")
        date, payload = h.get("x-amz-date", ""), h.get("x-amz-content-sha256", "")
    else:
        return "403 Forbidden", "AccessDenied", "Access Denied"
    try:
        key_id, day, region, service, _ = cred.rsplit("/", 4)
    except ValueError:
        return "400 Bad Request", "AuthorizationHeaderMalformed", "The authorization header is malformed"
    if key_id != args.access_key:
        return "403 Forbidden", "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
    if region not in ((args.region, "auto", "us-east-1", "") if args.r2 else (args.region,)):  # as S3 answers; moto would accept any
        return ("400 Bad Request", "AuthorizationHeaderMalformed",
                f"The authorization header is malformed; the region '{region}' is wrong; expecting '{args.region}'")
    enc = lambda s: quote(s, safe="-_.~")  # noqa: E731
    canonical = "\n".join([
        env["REQUEST_METHOD"], quote(unquote(raw_path), safe="/-_.~"),
        "&".join(sorted(f"{enc(k)}={enc(v)}" for k, v in query)),
        *(f"{n}:{' '.join(h.get(n, '').split())}" for n in signed.split(";")), "", signed, payload])
    scope = f"{day}/{region}/{service}/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    k = _sign(_sign(_sign(_sign(("AWS4" + args.secret_key).encode(), day), region), service), "aws4_request")
    if not hmac.compare_digest(hmac.new(k, to_sign.encode(), hashlib.sha256).hexdigest(), given):
        return ("403 Forbidden", "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.")
    if re.fullmatch(r"[0-9a-f]{64}", payload):
        body = env["wsgi.input"]
        digest = hashlib.sha256()
        while chunk := body.read(1 << 20):
            digest.update(chunk)
        body.seek(0)
        if digest.hexdigest() != payload:
            return ("400 Bad Request", "XAmzContentSHA256Mismatch",
                    "The provided 'x-amz-content-sha256' header does not match what was computed.")
    return None


# https://developers.cloudflare.com/r2/api/s3/api/: what no table there lists as implemented.
R2_UNKNOWN_QUERIES = {"acl", "analytics", "inventory", "logging", "object-lock", "policy", "replication", "tagging", "versioning", "versions", "website"}
R2_UNKNOWN_HEADERS = ("x-amz-object-lock-", "x-amz-tagging", "x-amz-website-redirect-location", "x-amz-grant-")
r2_written = {}  # path: time of the last write


def r2_refusal(env, h):
    """What R2 refuses and S3 does not: None, or (status, code, message). R2 allows one write a second to one name, and parts of an
    upload must be equally long but for the last one, which is told when the upload is completed."""
    query = {name for name, _ in parse_qsl(env.get("QUERY_STRING", ""), keep_blank_values=True)}
    names = [name for name in h if name.startswith(R2_UNKNOWN_HEADERS)] + sorted(query & R2_UNKNOWN_QUERIES)
    if h.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        names.append(h["x-amz-content-sha256"])
    if names:
        return "501 Not Implemented", "NotImplemented", f"{names[0]} not implemented"
    path, method = env["PATH_INFO"], env["REQUEST_METHOD"]
    if method == "PUT" and "uploadId" not in query:
        if time.monotonic() - r2_written.get(path, -1) < 1:
            return "429 Too Many Requests", "TooManyRequests", "Reduce your concurrent request rate for the same object."
        r2_written[path] = time.monotonic()
    if method == "POST" and "uploadId" in query:
        bucket, key = path.lstrip("/").split("/", 1)
        upload = backend.get_bucket(bucket).multiparts.get(dict(parse_qsl(env["QUERY_STRING"]))["uploadId"])
        sizes = [part.size for _, part in sorted(upload.parts.items())] if upload else []
        if len(set(sizes[:-1])) > 1 or (sizes and sizes[-1] > sizes[0]):
            return "400 Bad Request", "InvalidPart", "All non-trailing parts must have the same length."
    return None


moto_app = create_backend_app("s3")


def app(env, start_response):
    if env["PATH_INFO"] == "/_emulator/health":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]
    if env["PATH_INFO"].startswith("/_emulator/delete/"):  # for tests, whose client cannot delete without writing
        bucket, key = env["PATH_INFO"].removeprefix("/_emulator/delete/").split("/", 1)
        with LOCK:
            backend.delete_object(bucket, key)
        start_response("204 No Content", [])
        return []
    if not args.no_auth and (bad := check_signature(env, headers_of(env))):
        return error(start_response, *bad)
    with LOCK:
        if args.r2 and (refusal := r2_refusal(env, headers_of(env))):
            return error(start_response, *refusal)
        return [b"".join(moto_app(env, start_response))]


with LOCK:
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for b in args.bucket:
        backend.create_bucket(b, args.region)
print(f"s3-server listening on http://{args.host}:{args.port}", flush=True)
waitress.serve(app, sockets=[listener], threads=args.threads, connection_limit=512, backlog=512,
               channel_timeout=120, max_request_body_size=5 << 30, recv_bytes=256 << 10, inbuf_overflow=64 << 20, outbuf_overflow=64 << 20,
               ident="s3-server", clear_untrusted_proxy_headers=False, expose_tracebacks=False)
