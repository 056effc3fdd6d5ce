"""Real servers that speak AWS, one of each per test process, on free ports.

`ministack` and `moto_server` give the address; while a test uses one of them, every AWS client
goes there. The servers are shared: use names of your own (`bucket_name`).
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_aws import send_clients_to
from identities import Cloud, running

from trilho.demo import ministack as embedded
from trilho.storage import aws


@pytest.fixture(scope="session")
def ministack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = embedded.start(tmp_path_factory.mktemp("ministack"))
    yield running.url
    running.stop()


# moto checks a condition and then writes, with nothing in between to keep others out: served by
# threads, as its own command does, two writers may win. Here it answers one request at a time.
MOTO = """
import sys
import threading
from moto.moto_server import werkzeug_app as moto
from werkzeug.serving import run_simple
moto_application = moto.DomainDispatcherApplication(moto.create_backend_app)
lock = threading.Lock()
def application(environ, start_response):
    with lock:
        return list(moto_application(environ, start_response))
handler = moto.MotoRequestHandler
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=handler)
"""


@pytest.fixture(scope="session")
def moto_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("moto") / "moto.log"
    for _ in range(5):  # somebody else may take the free port first
        url, process = _start_moto(log)
        if _answers(url, process):
            break
    else:
        raise RuntimeError(f"moto did not start:\n{log.read_text()}")
    yield url
    process.kill()
    process.wait()


def _start_moto(log: Path) -> tuple[str, subprocess.Popen[bytes]]:
    port = embedded.free_port()
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", MOTO, str(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    return f"http://127.0.0.1:{port}", process


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5):
                return process.poll() is None
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    process.kill()
    process.wait()
    return False


@pytest.fixture(scope="session")
def enforced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud that enforces the policies of infra/; shared: give objects keys of their own."""
    with running(tmp_path_factory.mktemp("enforced")) as made:
        yield made


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS settings of the machine reach the test."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    return monkeypatch


@pytest.fixture
def ministack(ministack_server: str, aws_environment: pytest.MonkeyPatch) -> str:
    """The address of a running MiniStack, where this test's AWS clients go."""
    return send_clients_to(ministack_server, aws_environment)


@pytest.fixture
def moto_server(moto_process: str, aws_environment: pytest.MonkeyPatch) -> str:
    """The address of a running moto server, where this test's AWS clients go."""
    return send_clients_to(moto_process, aws_environment)


@pytest.fixture
def bucket_name() -> str:
    """A name for a bucket that no other test uses."""
    return f"trilho-{secrets.token_hex(6)}"


@pytest.fixture
def bucket(bucket_name: str) -> str:
    """A new bucket at the server that the test uses; ask for that server's fixture first."""
    aws.client("s3").create_bucket(Bucket=bucket_name)
    return bucket_name


@pytest.fixture(params=["folder", "ministack", "moto"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store: the same tests run on each kind."""
    if request.param == "folder":
        return str(tmp_path / "a registry")
    request.getfixturevalue("ministack" if request.param == "ministack" else "moto_server")
    return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
