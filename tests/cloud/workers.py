"""Jobs for other processes, and the processes: started once, forked fast, killed at will.

This module imports no pytest, so that a process of it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trilho.errors import ConflictError
from trilho.registry import Source, open_registry
from trilho.storage import NotFound, Store, open_store

KILLED = 9


class Processes:
    """Runs jobs of this module in processes of their own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def start(self, job: str, *given: Any, die_at: int = 0) -> int:
        """Start a job and return its process id; it dies at its `die_at`-th step."""
        return self._ask({"job": job, "given": given, "die_at": die_at})

    def wait(self, pid: int) -> int:
        """Wait for the end of a job and return its exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def run(self, job: str, *given: Any, die_at: int = 0) -> int:
        return self.wait(self.start(job, *given, die_at=die_at))

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def serve() -> None:
    if "AWS_ENDPOINT_URL" in os.environ:  # made once for all forks; it has no connections yet
        from trilho.storage import aws

        made = aws.client("s3")
        aws.client = lambda _: made
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _run(question)
        print(answer, flush=True)


def _run(question: dict[str, Any]) -> None:
    try:
        if question["die_at"]:
            die_at(question["die_at"])
        globals()[question["job"]](*question["given"])
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def die_at(last: int) -> None:
    """Let this process die, as by kill -9, at its `last`-th step.

    A step is the moment before anything is written: before a file is synced, named or removed,
    before an object is sent to S3.
    """
    lock = threading.Lock()
    steps = 0

    def step() -> None:
        nonlocal steps
        with lock:
            steps += 1
            if steps == last:
                os._exit(KILLED)

    def with_step(do: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*given: Any, **named: Any) -> Any:
            step()
            return do(*given, **named)

        return stepping

    for name in ("fsync", "link", "replace", "unlink", "rename"):
        setattr(os, name, with_step(getattr(os, name)))
    if "AWS_ENDPOINT_URL" in os.environ:
        from botocore.client import BaseClient

        call = BaseClient._make_api_call

        def stepping_call(self: Any, operation: str, given: dict[str, Any]) -> Any:
            do = with_step(call) if operation.startswith("Put") else call
            return do(self, operation, given)

        BaseClient._make_api_call = stepping_call


# --- jobs ---


def count_up(url: str, times: int) -> None:
    store = open_store(url)
    for _ in range(times):
        count_up_once(store)


def count_up_once(store: Store) -> None:
    """Add one to the counter, again and again until nobody else came in between."""
    while True:
        try:
            data, etag = store.get("counter")
        except NotFound:
            data, etag = b"0", None
        with contextlib.suppress(ConflictError):
            store.swap("counter", str(int(data) + 1).encode(), etag)
            return


def rewrite(url: str) -> None:
    """Turn the zeros of a large object to ones and back, for ever."""
    store = open_store(url)
    data, etag = store.get("large")
    while True:
        data = bytes([data[0] ^ 1]) * len(data)
        etag = store.swap("large", data, etag)


def publish(url: str, digests: list[str], who: str) -> None:
    registry = open_registry(url)
    for digest in digests:
        registry.publish(digest, verdict="PROMOTE", source=Source(actor=who))


def advance(url: str, times: int, who: str) -> None:
    """Move the champion to the next version, `times` times."""
    registry = open_registry(url)
    for _ in range(times):
        while True:
            seen = registry.alias("champion")
            with contextlib.suppress(ConflictError):
                registry.move_alias(
                    "champion",
                    seen.version + 1 if seen else 1,
                    expected=seen,
                    source=Source(actor=who),
                )
                break


def ship(url: str, folder: str) -> None:
    """All that publishing and promoting a bundle takes."""
    registry = open_registry(url)
    source = Source(actor="worker")
    digest = registry.put_bundle(Path(folder))
    version = registry.publish(digest, verdict="PROMOTE", source=source)
    champion = registry.alias("champion")
    registry.move_alias("champion", version.number, expected=champion, source=source)


def fetch(url: str, digest: str, folder: str) -> None:
    open_registry(url).fetch_bundle(digest, Path(folder))


if __name__ == "__main__":
    serve()
