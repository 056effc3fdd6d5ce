"""Start and stop the keeper, and know whether one runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from trilho.demo.keeper import State
from trilho.errors import UnavailableError

_started: list[subprocess.Popen[bytes]] = []  # kept: Python warns of a child that it forgets
START_SECONDS = 90.0
STOP_SECONDS = 45.0


def start(folder: Path, engine: str | None = None, gateway: str | None = None) -> State:
    """Start a keeper that outlives this process, and return once the embedded AWS answers.

    Parameters
    ----------
    folder
        Its state, logs and pid file.
    engine, gateway
        DOCKER_HOST of a container engine, and this machine's address in its containers' network.

    Raises
    ------
    UnavailableError
        It did not start; the message quotes its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "trilho.demo.keeper", str(folder)]
    with open(folder / "keeper.log", "wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command + ([engine, gateway] if engine and gateway else []),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it stays when the terminal closes, and is a group to signal
        )
    _started.append(process)
    try:
        _until(lambda: read(folder) is not None or process.poll() is not None, START_SECONDS)
    except BaseException:
        process.terminate()
        raise
    state = read(folder)
    if state is None:
        process.terminate()
        text = (folder / "keeper.log").read_text(encoding="utf-8", errors="replace")
        raise UnavailableError(
            "The embedded AWS did not start:\n" + "\n".join(text.splitlines()[-10:]),
            hint=f"See {folder / 'keeper.log'}.",
        )
    return state


def read(folder: Path) -> State | None:
    """Return what the keeper wrote, whether or not it still runs."""
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def runs(folder: Path) -> bool:
    """Whether the keeper, or a task that it left behind, is alive: they hold the lock."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def stop(folder: Path) -> bool:
    """End the keeper, its tasks and the embedded AWS; return False when nothing ran."""
    state = read(folder)
    if state is None:
        return False
    alive = runs(folder)
    if alive:
        # the lock says that the group exists, so its number cannot have gone to somebody else
        _signal_group(state.keeper, signal.SIGTERM)
        if not _until(lambda: not runs(folder), STOP_SECONDS):
            _signal_group(state.keeper, signal.SIGKILL)
    if _is_ministack(state.aws_url):  # only after a keeper that was killed
        alive = True
        os.kill(state.aws, signal.SIGTERM)
        _until(lambda: not _is_ministack(state.aws_url), STOP_SECONDS)
    for process in _started:
        if process.pid == state.keeper:
            process.wait()
    (folder / "state.json").unlink(missing_ok=True)
    return alive


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _is_ministack(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/_ministack/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; False when it does not in time."""

    try:
        Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_fixed(0.05),
            retry=retry_if_result(lambda held: not held),
        )(condition)
    except RetryError:
        return False
    return True
