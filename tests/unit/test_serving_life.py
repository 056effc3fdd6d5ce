"""The service from its first breath to its last: workers, draining, sudden deaths."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import served
from served import ROW, ROWS, Service, running
from waiting import eventually
from wire import Wire, get, post

from trilho.serving import cores, supervisor

JSON = {"content-type": "application/json"}
BODY = json.dumps([ROW]).encode()
LARGE = json.dumps(ROWS * 500).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("life") / "bundle"
    served.make_bundle(path)
    return path


def children(service: Service) -> set[int]:
    """The workers' process numbers."""
    pid = service.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


class Load:
    """Clients that ask all the time, and what they were answered.

    Half of them keep their connections; half of them send large bodies.
    """

    def __init__(self, service: Service, clients: int = 8) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, number: int) -> None:
        connection = self._service.connect()
        body = LARGE if number % 4 < 2 else BODY
        while not self._stop.is_set():
            try:
                connection.request("POST", "/invocations", body, JSON)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(f"status {response.status}")
            except OSError as error:
                self.failures.append(repr(error))
                connection.close()
            self.answered += 1
            if number % 2:
                connection.close()
        connection.close()

    @contextmanager
    def going(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more were answered."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted or self.failures, 60)


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, 3])
def test_sigterm_fails_no_request(folder: Path, workers: int) -> None:
    """Clients that follow readiness, as a load balancer does, lose nothing."""
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_DRAIN_SECONDS="25",
        TRILHO_WORKERS=workers,
        TRILHO_LOG_REQUESTS="errors",
        TRILHO_QUEUE_SECONDS="30",  # a busy machine is no overload
    ) as service:
        load = Load(service)
        with load.going():
            load.more(200)
            service.process.send_signal(signal.SIGTERM)
            for _ in range(2 * workers):  # not ready at once, whichever worker is asked ...
                eventually(lambda: service.ask("GET", "/ping")[0] == 503)
            assert service.ask("GET", "/readyz")[1] == {"status": "draining"}
            assert service.ask("GET", "/v2/health/ready")[:2] == (503, {"ready": False})
            # so that no client reuses a connection that is about to close
            status, _, headers = service.ask("GET", "/livez")
            assert (status, headers["connection"]) == (200, "close")
            load.more(200)  # ... yet answering
        code, log = service.stop(signal.SIGTERM)  # a second one: no need to wait for the rest
    assert load.failures == []
    assert code == 0
    assert [line["event"] for line in log] == ["drain", "stopped"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_drain_ends_by_itself_and_in_time(folder: Path, workers: int) -> None:
    """A load balancer stops sending within the delay; then all is over well before 30 seconds."""
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_DRAIN_SECONDS="1.5",
        TRILHO_WORKERS=workers,
        TRILHO_LOG_REQUESTS="errors",
        TRILHO_QUEUE_SECONDS="30",
    ) as service:
        idle = [Wire(service.port) for _ in range(4)]
        load = Load(service)
        with load.going():
            load.more(50)
            service.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            eventually(lambda: service.ask("GET", "/ping")[0] == 503)
            load.more(20)
        assert load.failures == []
        code, _ = service.end()
        assert code == 0
        assert 1.4 < time.monotonic() - started < 10
        for wire in idle:
            assert wire.closed()
            wire.socket.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_under_way_at_the_end_is_answered(folder: Path, workers: int) -> None:
    """Half a request, requests that wait for their turn, and who comes at the last moment."""
    with running(
        TRILHO_MODEL_DIR=folder, TRILHO_DRAIN_SECONDS="1", TRILHO_WORKERS=workers
    ) as service:
        half, pipelined = Wire(service.port), Wire(service.port)
        request = post(LARGE)
        half.send(request[:-20])
        pipelined.send(request * 20 + get("/livez"))
        assert service.ask("GET", "/livez")[0] == 200  # so the heads above have been read
        service.process.send_signal(signal.SIGTERM)
        late = []
        while len(late) < 5000:
            try:
                wire = Wire(service.port)
            except OSError:
                break
            late.append(wire)
            if len(late) % 2:  # the others connect, and speak later
                wire.send(get("/livez"))
            time.sleep(0.001)
        for wire in late[1::2][-20:]:
            wire.send(get("/livez"))
        half.send(request[-20:])
        assert len(half.reply().json["predictions"]) == 2000
        for _ in range(20):
            assert pipelined.reply().status == 200
        assert pipelined.reply().headers["connection"] == "close"
        lost = 0
        for wire in [*late[::2], *late[1::2][-20:]]:
            try:
                assert wire.reply().status == 200
            except (EOFError, OSError):
                lost += 1  # between the last look at the backlog and the closing of the listener
        assert lost <= 2
        assert len(late) > 50
        assert service.end()[0] == 0
        for wire in (half, pipelined, *late):
            wire.socket.close()


def test_whoever_has_connected_is_answered(folder: Path) -> None:
    """The service is stopped while clients connect, so that all of them are in the backlog."""
    with running(TRILHO_MODEL_DIR=folder, TRILHO_DRAIN_SECONDS="0.5") as service:
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: service.ask("GET", "/ping")[0] == 503)
        service.process.send_signal(signal.SIGSTOP)
        wires = [Wire(service.port) for _ in range(100)]
        for wire in wires[:50]:
            wire.send(post(BODY))
        time.sleep(0.6)  # now it is time to close, but nobody has looked at the backlog
        service.process.send_signal(signal.SIGCONT)
        assert {wire.reply().status for wire in wires[:50]} == {200}
        eventually(service.refuses)
        time.sleep(0.2)  # the others are slow, but have come before the end
        for wire in wires[50:]:
            wire.send(post(BODY))
        assert {wire.reply().status for wire in wires[50:]} == {200}
        assert service.end()[0] == 0
        for wire in wires:
            wire.socket.close()


def test_a_client_that_never_finishes_does_not_hold_up_the_end(folder: Path) -> None:
    with running(
        TRILHO_MODEL_DIR=folder, TRILHO_DRAIN_SECONDS="0", TRILHO_REQUEST_SECONDS="2"
    ) as service, Wire(service.port) as wire:  # fmt: skip
        wire.send(post(BODY)[:-1])
        assert service.ask("GET", "/livez")[0] == 200
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert wire.reply().status == 408
        assert service.end()[0] == 0
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_sigterm_and_ctrl_c_do_not_wait(folder: Path, workers: int) -> None:
    variables = {"TRILHO_DRAIN_SECONDS": "60", "TRILHO_WORKERS": workers}
    with running(TRILHO_MODEL_DIR=folder, **variables) as service:
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: service.ask("GET", "/ping")[0] == 503)
        assert service.stop(signal.SIGTERM)[0] == 0  # far below 60 s, or communicate times out
    with running(TRILHO_MODEL_DIR=folder, **variables) as service:
        assert service.stop(signal.SIGINT)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of signals that wait")
def test_a_busy_worker_does_not_take_two_signals_for_one(folder: Path) -> None:
    def waits(pid: int, number: int) -> bool:
        (pending,) = re.findall(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        return bool(int(pending, 16) >> (number - 1) & 1)

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    with running(
        TRILHO_MODEL_DIR=folder, TRILHO_DRAIN_SECONDS="60", TRILHO_WORKERS="2"
    ) as service:  # fmt: skip
        workers = children(service)
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        # One that did not run since would be given the second signal together with this one.
        eventually(lambda: all(state(pid) == "T" for pid in workers))
        try:
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: all(waits(pid, signal.SIGTERM) for pid in workers))
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: all(waits(pid, signal.SIGINT) for pid in workers))
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        assert service.end()[0] == 0


# ── several workers ───────────────────────────────────────────────────────────────────────────────


def test_workers_share_the_connections_and_the_model(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="1") as alone:
        single = alone.ready["memory_mb"]
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="4") as service:
        assert service.ready["workers"] == 4
        assert len(children(service)) == 4
        # each has its own tables and buffers, but not its own interpreter and libraries
        assert service.ready["memory_mb"] < 2 * single
        wires = [Wire(service.port) for _ in range(40)]
        prefixes = []
        for wire in wires:
            wire.send(get("/livez"))
            prefixes.append(wire.reply().headers["x-request-id"][:16])
        counts = {prefix: prefixes.count(prefix) for prefix in prefixes}
        assert len(counts) == 4  # each worker makes ids of its own
        assert max(counts.values()) <= 13
        for wire in wires:
            wire.socket.close()
        code, log = service.stop()
    assert (code, [line["event"] for line in log]) == (0, ["stopped"])


def test_a_worker_that_dies_is_replaced(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="2") as service:
        before = children(service)
        victim, other = before
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(children(service) - before) == 1)
        wires = [Wire(service.port) for _ in range(8)]
        for wire in wires:  # new connections are answered all the while
            wire.send(post(BODY))
            assert wire.reply().status == 200
            wire.socket.close()
        assert other in children(service)
        code, log = service.stop()
    assert code == 0
    (ended,) = [line for line in log if line["event"] == "worker-ended"]
    assert ended["signal"] == signal.SIGKILL


def test_workers_that_die_at_once_end_the_service(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="2") as service:

        def kill() -> bool:
            with suppress(ProcessLookupError, FileNotFoundError):  # one of them was gone already
                for pid in children(service):
                    os.kill(pid, signal.SIGKILL)
            return service.process.poll() is not None

        eventually(kill)
        code, log = service.end()
    assert code == 1
    assert "as soon as they start" in next(
        line["error"] for line in log if line["event"] == "failed"
    )


def test_no_worker_outlives_its_parent(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="2") as service:
        pids = children(service)
        service.process.kill()
        service.process.wait()
        try:
            eventually(lambda: not any(_lives(pid) for pid in pids))
            assert service.refuses()
        finally:
            for pid in filter(_lives, pids):
                os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stuck_worker_is_killed_in_the_end(tmp_path: Path) -> None:
    """One that does not hear SIGTERM; the others end in good order."""
    rounds = []

    def run(number: int, lifeline: int, ready: Any) -> None:
        if number == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        ready()
        while True:
            time.sleep(60)

    parent = os.fork()
    if parent == 0:  # the supervisor blocks signals, so it gets a process of its own
        signal.alarm(20)  # which kills it
        supervisor.MARGIN_SECONDS = 0.2
        it = supervisor.Supervisor(
            2,
            run,
            ready=lambda pids: os.kill(os.getpid(), signal.SIGTERM),
            drain=lambda: rounds.append(1),
            end_seconds=0.2,
        )
        code = it.run()
        os._exit(10 * len(rounds) + code)
    _, status = os.waitpid(parent, 0)
    assert os.waitstatus_to_exitcode(status) == 11  # drained once; not all ended well


@pytest.mark.parametrize("command", ["module", "verb"])
def test_takes_the_number_of_workers_as_an_argument(folder: Path, command: str) -> None:
    if command == "module":
        process = served.start("serve", "--workers", "2", TRILHO_MODEL_DIR=folder)
    else:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "trilho", "serve", folder, "--workers", "2"],
            env=served.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        assert process.stderr is not None
        ready = next(x for x in map(json.loads, process.stderr) if x["event"] == "ready")
        assert ready["workers"] == 2
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_refuses_arguments_that_make_no_sense(folder: Path) -> None:
    for arguments in (["--workers"], ["--workers", "0"], ["--workers", "x"], ["serve", "more"]):
        process = served.start(*arguments, TRILHO_MODEL_DIR=folder)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 2
        assert "TRILHO_WORKERS" in err


# ── cores ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "25000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_counts_the_cores_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], wanted: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cores.available(tmp_path) == wanted


def test_health_check_of_the_container(folder: Path) -> None:
    def check(port: int) -> int:
        command = [sys.executable, "-m", "trilho.serving.health"]
        environment = os.environ | {"TRILHO_PORT": str(port)}
        return subprocess.run(command, env=environment, timeout=30).returncode

    with running(TRILHO_MODEL_DIR=folder) as service:
        assert check(service.port) == 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert check(nobody.getsockname()[1]) == 1
