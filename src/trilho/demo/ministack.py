"""Starts MiniStack, an AWS that runs on this machine, for the demo and for the tests."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trilho.errors import UnavailableError, UsageError

ACCESS_KEY = "trilho"
SECRET_KEY = "trilho-local"  # noqa: S105 - MiniStack takes any
REGION = "us-east-1"


@dataclass(frozen=True)
class Running:
    """A started server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def environment(self) -> dict[str, str]:
        """Return the variables that send every AWS client to this server."""
        return client_environment(self.url)

    def stop(self) -> None:
        """End the server; its state stays in the state folder. Harmless when it ended already."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def client_environment(url: str) -> dict[str, str]:
    """Return the variables that send every AWS client to the server at `url`."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    }


def start(
    state_dir: Path,
    port: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Running:
    """Start MiniStack on 127.0.0.1 and return once it answers.

    Parameters
    ----------
    state_dir
        Holds the buckets, the other services' state and `ministack.log`. A server started on the
        same folder again knows what the last one knew.
    port
        TCP port; None takes a free one.
    environment
        Variables to add, such as DOCKER_HOST.
    timeout
        Seconds until it must answer.

    Raises
    ------
    UsageError
        MiniStack is not installed, or the port is taken.
    UnavailableError
        It did not answer in time; the message quotes the end of its log.
    """
    if importlib.util.find_spec("ministack") is None:
        raise UsageError(
            "MiniStack, the embedded AWS, is not installed.",
            hint="Run `make setup`, or `uv pip install ministack docker cryptography`.",
        )
    state_dir = state_dir.resolve()
    (state_dir / "s3").mkdir(parents=True, exist_ok=True)
    (state_dir / "tmp").mkdir(exist_ok=True)
    log = state_dir / "ministack.log"
    attempts = 5 if port is None else 1
    for attempt in range(attempts):
        chosen = port if port is not None else free_port()
        running, token = _spawn(chosen, state_dir, log, environment or {})
        try:
            if _answers(running, token, timeout):
                return running
        except BaseException:
            running.stop()
            raise
        running.stop()
        # somebody else may have taken the free port in between: then another one will do
        if attempt + 1 == attempts or "already in use" not in _tail(log):
            break
    if "already in use" in _tail(log):
        raise UsageError(
            f"Port {port} is already in use.", hint="Stop what listens there, or take another port."
        )
    raise UnavailableError(f"MiniStack did not start. Its log ends:\n{_tail(log)}")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _spawn(
    port: int, state_dir: Path, log: Path, environment: Mapping[str, str]
) -> tuple[Running, str]:
    url = f"http://127.0.0.1:{port}"
    token = secrets.token_hex(8)
    variables = {
        **os.environ,
        **client_environment(url),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state_dir),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state_dir / "s3"),
        "TMPDIR": str(state_dir / "tmp"),
        "IOT_MTLS_ENABLED": "0",  # would take a fixed port, on every interface
        "SFTP_ENABLED": "0",
        "MINISTACK_EDITION": token,  # comes back in the health answer: this server, no other
        **environment,
    }
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=variables,
            cwd=state_dir,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the caller, who then decides
        )
    return Running(url=url, process=process, log=log), token


def _answers(running: Running, token: str, timeout: float) -> bool:
    """Wait until the server answers as itself; False when it ended or the time is over."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while running.process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"{running.url}/_ministack/health", timeout=5) as answer:
                if json.load(answer).get("edition") == token:
                    return True
        except (urllib.error.URLError, OSError, ValueError):
            pass
        time.sleep(0.05)
    return False


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
