"""S3 when it misbehaves: answers that get lost, throttling, missing rights, nobody there.

A small HTTP server stands between the store and MiniStack, or plays S3 itself.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from trilho.demo.ministack import client_environment, free_port
from trilho.deploy import ecs
from trilho.errors import ConflictError, IntegrityError, TrilhoError, UnavailableError, UsageError
from trilho.registry import Source, open_registry
from trilho.storage import AlreadyExists, open_store
from trilho.storage.s3 import S3Store

Answer = tuple[int, bytes]


class Between(ThreadingHTTPServer):
    """Forwards requests to `upstream`; `meddle` may answer itself, or lose or cut an answer."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.seen: list[str] = []
        # before: answers instead of the upstream; after: "lose" or "cut" the upstream's answer
        self.before: Callable[[str, str], Answer | None] = lambda *_: None
        self.after: Callable[[str, str], str | None] = lambda *_: None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {self.path}")
        status, headers, data = 0, [], b""
        length = None
        if answer := self.server.before(self.command, self.path):
            status, data = answer
        else:
            assert self.server.upstream is not None
            upstream = http.client.HTTPConnection(urlsplit(self.server.upstream).netloc)
            upstream.request(self.command, self.path, body, dict(self.headers))
            found = upstream.getresponse()
            status, data = found.status, found.read()
            headers = [h for h in found.getheaders() if h[0].lower() not in OWN]
            length = found.getheader("Content-Length")
            upstream.close()
        fault = self.server.after(self.command, self.path)
        self.close_connection = fault is not None
        if fault == "lose":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        head = self.command == "HEAD"
        self.send_header("Content-Length", (length or "0") if head else str(len(data)))
        self.end_headers()
        if not head:
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


OWN = {"connection", "keep-alive", "transfer-encoding", "content-length"}  # of each connection


def serving(upstream: str | None) -> Iterator[Between]:
    server = Between(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def clients_go_to(url: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in client_environment(url).items():
        environment.setenv(name, value)
    # boto3 shall try again as ever, but at once
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    environment.setattr(backoff, lambda *_: 0)


@pytest.fixture
def between(
    ministack_server: str, aws_environment: pytest.MonkeyPatch, bucket_name: str
) -> Iterator[Between]:
    """A real S3 behind a network that loses things; its bucket is `bucket_name`."""
    for server in serving(ministack_server):
        clients_go_to(server.url, aws_environment)
        request = urllib.request.Request(f"{server.url}/{bucket_name}", method="PUT")
        urllib.request.urlopen(request).close()
        yield server


@pytest.fixture
def played(aws_environment: pytest.MonkeyPatch) -> Iterator[Between]:
    """An S3 that answers what the test says."""
    for server in serving(None):
        clients_go_to(server.url, aws_environment)
        aws_environment.setenv("AWS_MAX_ATTEMPTS", "1")
        yield server


def once(method: str, fault: str, part: str = "") -> Callable[[str, str], str | None]:
    """Meddle with the first such request."""
    left = [fault]

    def after(seen: str, path: str) -> str | None:
        return left.pop() if left and seen == method and part in path else None

    return after


# --- lost answers ---


def test_create_whose_answer_was_lost_is_known_as_ours(between: Between, bucket_name: str) -> None:
    store = open_store(f"s3://{bucket_name}")
    between.after = once("PUT", "lose")
    etag = store.put_once("k", b"mine")
    assert store.get("k") == (b"mine", etag)
    assert [line for line in between.seen if line.startswith("PUT /")][-2:] == [
        f"PUT /{bucket_name}/k"
    ] * 2
    between.after = once("PUT", "lose")  # another's object, be it equal, is not ours
    with pytest.raises(AlreadyExists):
        store.put_once("k", b"mine")


def test_swap_whose_answer_was_lost_is_known_as_ours(between: Between, bucket_name: str) -> None:
    store = open_store(f"s3://{bucket_name}")
    first = store.swap("k", b"1", None)
    between.after = once("PUT", "lose")
    second = store.swap("k", b"2", first)
    assert store.get("k") == (b"2", second)
    between.after = once("PUT", "lose")
    with pytest.raises(ConflictError):  # equal content of another writer: still a lost race
        store.swap("k", b"2", first)


def test_upload_whose_answer_was_lost_is_success(
    between: Between, bucket_name: str, tmp_path: Path
) -> None:
    store = S3Store(bucket_name)
    store.multipart_from = store.part_size = 5 * 2**20
    for size in (10, 6 * 2**20):
        data = secrets.token_bytes(size)
        (tmp_path / "f").write_bytes(data)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        for method in ("PUT", "POST"):  # POST: the start and the end of an upload in parts
            between.after = once(method, "lose")
            store.upload_once(f"{method}/{size}", tmp_path / "f", digest)
            assert store.get(f"{method}/{size}").data == data
    between.after = once("POST", "lose", "uploadId=")
    store.upload_once("end", tmp_path / "f", digest)
    assert store.get("end").data == data


def test_answer_that_breaks_off_is_asked_for_again(
    between: Between, bucket_name: str, tmp_path: Path
) -> None:
    store = open_store(f"s3://{bucket_name}")
    store.put_once("k", b"x" * 100_000)
    between.after = once("GET", "cut")
    assert store.get("k").data == b"x" * 100_000
    between.after = once("GET", "cut")
    store.download("k", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"x" * 100_000


def test_answer_that_always_breaks_off_is_no_object(
    between: Between, bucket_name: str, tmp_path: Path
) -> None:
    store = open_store(f"s3://{bucket_name}")
    store.put_once("k", b"x" * 100_000)
    between.after = lambda method, _: "cut" if method == "GET" else None
    with pytest.raises(UnavailableError, match=r"Cannot read s3://.*/k: "):
        store.get("k")
    with pytest.raises(UnavailableError, match=r"Cannot read s3://.*/k: "):
        store.download("k", tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("f")] == []


def test_publishing_over_a_network_that_loses_every_third_answer(
    between: Between, bucket_name: str, tmp_path: Path
) -> None:
    count = 0

    def after(method: str, _: str) -> str | None:
        nonlocal count
        count += method == "PUT"
        return "lose" if method == "PUT" and count % 3 == 0 else None

    between.after = after
    store = open_store(f"s3://{bucket_name}/r")
    for number in range(10):
        data, etag = store.get("n") if number else (b"0", None)
        store.swap("n", str(int(data) + 1).encode(), etag)
        store.put_once(f"k/{number}", b"")
    assert store.get("n").data == b"10"
    registry = open_registry(f"s3://{bucket_name}/r")
    for _ in range(3):
        registry.quarantine("sha256:" + "0" * 64, "bad", Source(actor="me"))
    assert len(registry.history()) == 1


# --- answers that are errors ---


def xml(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>It said {code}</Message></Error>".encode()


REFUSALS: list[tuple[int, str, type[TrilhoError], str, str]] = [
    (400, "ExpiredToken", UsageError, "credentials have expired", "aws sso login"),
    (403, "InvalidAccessKeyId", UsageError, "does not accept the credentials", "AWS_ACCESS_KEY_ID"),
    (403, "SignatureDoesNotMatch", UsageError, "does not accept the cred", "AWS_ACCESS_KEY_ID"),
    (403, "AccessDenied", UsageError, "access denied", "s3:PutObject"),
    (404, "NoSuchBucket", UsageError, "bucket does not exist", "Create it"),
    (400, "IllegalLocationConstraintException", UsageError, "another region", "AWS_REGION"),
    (403, "RequestTimeTooSkewed", UsageError, "clock is wrong", "clock"),
    (400, "BadDigest", IntegrityError, "not what was sent", ""),
    (400, "SomethingNew", UsageError, r"SomethingNew: It said", ""),
    (503, "SlowDown", UnavailableError, "retries included", "again later"),
    (500, "InternalError", UnavailableError, "retries included", "again later"),
    (502, "Bad Gateway", UnavailableError, "retries included", "again later"),
]


@pytest.mark.parametrize(
    ("status", "code", "kind", "message", "hint"), REFUSALS, ids=[r[1] for r in REFUSALS]
)
def test_refusal_is_said_in_words(
    played: Between, status: int, code: str, kind: type[TrilhoError], message: str, hint: str
) -> None:
    played.before = lambda *_: (status, xml(code))
    with pytest.raises(TrilhoError, match=message) as caught:
        open_store("s3://some-bucket/p").put_once("k", b"x")
    assert type(caught.value) is kind
    assert "Cannot write s3://some-bucket/p/k" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_head_that_may_not_say_why_is_explained(played: Between) -> None:
    store = open_store("s3://some-bucket/p")
    played.before = lambda *_: (403, b"")
    with pytest.raises(UsageError, match="access denied") as caught:
        store.exists("k")
    assert "s3:GetObject" in (caught.value.hint or "")
    played.before = lambda *_: (400, b"")
    with pytest.raises(UsageError, match="credentials have expired"):
        store.exists("k")
    played.before = lambda *_: (404, b"")
    with pytest.raises(UsageError, match="bucket 'some-bucket' does not exist"):
        store.exists("k")


def test_who_may_only_write_is_told_that_the_key_is_taken(
    between: Between, bucket_name: str
) -> None:
    store = open_store(f"s3://{bucket_name}")
    between.before = lambda method, _: (403, b"") if method == "HEAD" else None
    store.put_once("k", b"a")
    with pytest.raises(AlreadyExists):
        store.put_once("k", b"a")


def test_throttled_request_is_repeated(between: Between, bucket_name: str) -> None:
    answers = [(503, xml("SlowDown")), (500, xml("InternalError"))]
    between.before = lambda *_: answers.pop() if answers else None
    open_store(f"s3://{bucket_name}").put_once("k", b"x")
    assert answers == []


def test_write_that_met_another_one_is_repeated(between: Between, bucket_name: str) -> None:
    """S3 answers 409 when two conditional writes meet; it decided nothing and wants it again."""
    answers = [(409, xml("ConditionalRequestConflict"))] * 2
    between.before = lambda method, _: answers.pop() if answers and method == "PUT" else None
    store = open_store(f"s3://{bucket_name}")
    etag = store.put_once("k", b"x")
    answers += [(409, xml("ConditionalRequestConflict"))] * 2
    store.swap("k", b"y", etag)
    assert (answers, store.get("k").data) == ([], b"y")
    answers += [(409, xml("ConditionalRequestConflict"))] * 99
    with pytest.raises(UnavailableError):
        store.put_once("other", b"x")


def test_nobody_there(aws_environment: pytest.MonkeyPatch) -> None:
    clients_go_to(f"http://127.0.0.1:{free_port()}", aws_environment)
    aws_environment.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(UnavailableError, match="Cannot read s3://bucket/k: ") as caught:
        open_store("s3://bucket").get("k")
    assert "AWS_ENDPOINT_URL" in (caught.value.hint or "")
    assert caught.value.exit_code == 7


def test_endpoint_that_is_no_address(aws_environment: pytest.MonkeyPatch) -> None:
    clients_go_to("localhost:4566", aws_environment)
    with pytest.raises(UsageError) as caught:
        open_store("s3://bucket").get("k")
    assert "AWS_ENDPOINT_URL" in (caught.value.hint or "")


def test_no_credentials(ministack_server: str, aws_environment: pytest.MonkeyPatch) -> None:
    clients_go_to(ministack_server, aws_environment)
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="no usable AWS credentials") as caught:
        list(open_store("s3://bucket").list(""))
    assert "AWS_PROFILE" in (caught.value.hint or "")
    assert caught.value.exit_code == 2
    aws_environment.setenv("AWS_ACCESS_KEY_ID", "half")
    aws_environment.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="no usable AWS credentials"):
        open_store("s3://bucket").put_once("k", b"")
    aws_environment.setenv("AWS_PROFILE", "nonesuch")
    with pytest.raises(UsageError, match="nonesuch") as caught:
        open_store("s3://bucket").put_once("k", b"")
    assert "AWS_PROFILE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("actor", "says"),
    [("ada", "AWS_ACCESS_KEY_ID`"), ("dependabot[bot]", "AWS_ACCESS_KEY_ID --app dependabot`")],
)
def test_a_workflow_without_credentials_is_told_which_secrets_to_set(
    actor: str, says: str, ministack_server: str, aws_environment: pytest.MonkeyPatch
) -> None:
    clients_go_to(ministack_server, aws_environment)
    aws_environment.setenv("GITHUB_ACTIONS", "true")
    aws_environment.setenv("GITHUB_ACTOR", actor)
    # a secret that does not exist is an empty variable
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        aws_environment.setenv(name, "")
    for use in (lambda: open_store("s3://bucket").get("k"), ecs.Service("c", "s").describe):
        with pytest.raises(UsageError, match="no usable AWS credentials") as caught:
            use()
        assert caught.value.exit_code == 2
        hint = str(caught.value.hint)
        assert f"gh secret set {says}" in hint
        assert "variable AWS_ROLE_ARN" in hint
        assert "Settings → Secrets and variables → Actions" in hint
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        aws_environment.setenv(name, "")
    with pytest.raises(UsageError, match="region") as caught:
        ecs.Service("c", "s")
    assert "gh variable set AWS_REGION" in str(caught.value.hint)


@pytest.mark.parametrize("server", ["ministack", "moto_server"])
def test_missing_bucket_is_named_whatever_is_asked(
    request: pytest.FixtureRequest, server: str, tmp_path: Path
) -> None:
    request.getfixturevalue(server)
    store = S3Store("no-such-bucket-here")
    (tmp_path / "f").write_bytes(b"x" * 6 * 2**20)
    digest = "sha256:" + hashlib.sha256(b"x" * 6 * 2**20).hexdigest()
    actions: list[Callable[[], Any]] = [
        lambda: store.get("k"),
        lambda: store.exists("k"),
        lambda: store.size("k"),
        lambda: store.put_once("k", b""),
        lambda: store.swap("k", b"", None),
        lambda: store.swap("k", b"", '"etag"'),
        lambda: list(store.list("")),
        lambda: store.upload_once("k", tmp_path / "f", digest),
        lambda: store.download("k", tmp_path / "g"),
    ]
    for action in actions:
        with pytest.raises(UsageError, match=r"bucket.* does not exist") as caught:
            action()
        assert "no-such-bucket-here" in caught.value.message


def test_policy_that_denies_writing_is_named(
    moto_server: str, bucket: str, aws_environment: pytest.MonkeyPatch
) -> None:
    """moto enforces IAM: a user who may only read is told what is missing."""
    import boto3

    iam = boto3.session.Session().client("iam")
    name = f"reader-{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    iam.close()
    open_store(f"s3://{bucket}").put_once("k", b"x")
    aws_environment.undo()
    clients_go_to(moto_server, aws_environment)
    aws_environment.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    aws_environment.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    set_unchecked_requests(moto_server, 0)
    try:
        store = open_store(f"s3://{bucket}")
        assert store.get("k").data == b"x"
        with pytest.raises(UsageError, match=rf"write s3://{bucket}/new: access denied") as caught:
            store.put_once("new", b"x")
        assert "s3:PutObject" in (caught.value.hint or "")
    finally:
        set_unchecked_requests(moto_server, 10**9)


def set_unchecked_requests(url: str, count: int) -> None:
    body = str(count).encode()
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", body, headers)
    urllib.request.urlopen(request).close()
