"""The service as HTTP: odd, slow, many, and hostile clients."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import ROW, ROWS, Service, expected, running
from slow_model import SlowModel
from waiting import PATIENCE
from wire import Wire, get, post

from trilho import bundle
from trilho.serving import predictor
from trilho.serving.app import App, Finished
from trilho.serving.connection import TURN, Connection
from trilho.serving.settings import Limits
from trilho.serving.shared import Shared
from trilho.serving.work import Work

# so that a service finds the slow model, too
TESTS = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
BODY = json.dumps([ROW]).encode()
LARGE = json.dumps(ROWS * 500).encode()  # answered by a thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("http") / "bundle"
    served.make_bundle(path)
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder) as it:
        yield it


@pytest.fixture(scope="module")
def hasty(folder: Path) -> Iterator[Service]:
    """A service without patience or room."""
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_REQUEST_SECONDS="0.5",
        TRILHO_MAX_CONNECTIONS="20",
        TRILHO_MAX_BODY_MB="1",
    ) as it:
        yield it


def slow_bundle(folder: Path, seconds: float) -> Path:
    """A bundle whose model needs so many seconds for each request."""
    served.make_bundle(folder, serving="sklearn", golden=[0.5] * len(ROWS))
    joblib.dump(SlowModel(seconds), folder / "model.joblib")
    (folder / "manifest.json").unlink()
    bundle.seal(folder, served.manifest("binary", "sklearn"))
    return folder


def resident(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("VmRSS"))


# ── the grammar ───────────────────────────────────────────────────────────────────────────────────


def test_requests_sent_at_once_are_answered_in_order(service: Service) -> None:
    with Wire(service.port) as wire:
        wire.send(
            post(LARGE, x_request_id="a")
            + get("/ping", x_request_id="b")
            + post(BODY, x_request_id="c")
            + get("/nothing", x_request_id="d")
            + post(b"{", x_request_id="e")
            + get("/livez", x_request_id="f")
        )
        replies = [wire.reply() for _ in range(6)]
        assert [r.headers["x-request-id"] for r in replies] == list("abcdef")
        assert [r.status for r in replies] == [200, 200, 200, 404, 400, 200]
        assert len(replies[0].json["predictions"]) == 2000
        wire.send(get("/ping"))  # and the connection is still good
        assert wire.reply().status == 200


class Transport:
    """Counts what is written to it."""

    written = 0

    def write(self, data: bytes) -> None:
        self.written += 1

    def writelines(self, data: list[bytes]) -> None:
        self.written += 1

    def nothing(self) -> bool:
        return False

    is_closing = pause_reading = resume_reading = write_eof = nothing


def connected(app: App) -> tuple[Connection, Transport]:
    """A connection without a network."""
    work = Work(app.answer_together, app.predicted, None, most=10, patience=1, threads=1)
    connection, transport = Connection(Shared(app, work, Limits())), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, transport


def test_answers_a_client_that_only_sends_by_turns(folder: Path) -> None:
    """A few answers at a time, so that others have theirs in between."""

    async def ask() -> None:
        model = predictor.load(folder, *bundle.verify(folder), version=None)
        connection, transport = connected(App(model))
        connection.data_received(get("/livez") * 1000)
        assert transport.written == TURN
        while transport.written < 1000:
            before = transport.written
            await asyncio.sleep(0)
            assert 0 < transport.written - before <= TURN

    asyncio.run(ask())


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
def test_trouble_with_what_is_kept_is_no_trouble_for_clients(
    folder: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    def broken(_: Finished) -> None:
        raise ValueError("do-not-log-me")

    async def ask() -> None:
        app = App(predictor.load(folder, *bundle.verify(folder), version=None))
        app.on_prediction = broken
        connection, transport = connected(app)
        for count in (1, 2, 3):
            connection.data_received(post(body))
            deadline = time.monotonic() + PATIENCE
            while transport.written < count:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

    asyncio.run(ask())
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["error"] * 3
    assert "ValueError at " in lines[0]["error"]
    assert "do-not-log-me" not in json.dumps(lines)


def test_a_client_that_only_sends_does_not_stop_the_others(service: Service) -> None:
    with Wire(service.port) as greedy:
        greedy.send(get("/livez") * 20_000)
        started = time.monotonic()
        assert service.predict([ROW])[0] == 200
        assert time.monotonic() - started < 2
        for _ in range(20_000):
            assert greedy.reply().status == 200


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_takes_a_request_in_pieces_of_any_size(service: Service, size: int) -> None:
    request = post(BODY)
    with Wire(service.port) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(request), size):
            wire.send(request[i : i + size])
        assert wire.reply().json["predictions"] == pytest.approx([expected(ROW)])


def test_takes_chunked_bodies(service: Service) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, BODY[i : i + 1]) for i in range(len(BODY)))
    with Wire(service.port) as wire:
        wire.send(post(b"", content_length="", transfer_encoding="chunked") + chunks + b"0\r\n\r\n")
        assert wire.reply().json["predictions"] == pytest.approx([expected(ROW)])
        wire.send(get("/ping"))
        assert wire.reply().status == 200


def test_says_continue_to_a_client_that_asks_first(service: Service) -> None:
    head, _, body = post(LARGE, expect="100-continue").partition(b"\r\n\r\n")
    with Wire(service.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.reply().status == 100
        wire.send(body)
        assert wire.reply().status == 200
    with Wire(service.port) as wire:  # and says no before the body is sent
        wire.send(post(b"", content_length=str(1 << 30), expect="100-continue"))
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_says_continue_to_nobody_who_does_not_wait_for_it(service: Service) -> None:
    with Wire(service.port) as wire:
        wire.send(get("/ping", expect="100-continue"))  # there is no body
        assert wire.reply().status == 200
        wire.send(post(BODY, version="1.0", expect="100-continue"))  # HTTP/1.0 does not know it
        assert wire.reply().status == 200


@pytest.mark.parametrize("last", [{"connection": "close"}, {"version": "1.0"}])
@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
def test_answers_nothing_after_a_last_request(
    service: Service, body: bytes, last: dict[str, str]
) -> None:
    with Wire(service.port) as wire:
        wire.send(post(body, **last) + get("/ping"))
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        wire.send(b"\0 and what comes later is thrown away")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.closed()


def test_keeps_no_fields_that_come_behind_a_body(service: Service) -> None:
    """Such fields are small on the wire and large in memory."""
    with Wire(service.port) as wire:
        wire.send(post(b"", content_length="", transfer_encoding="chunked"))
        wire.send(b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY))
        before = resident(service)
        wire.send(b"".join(b"%x:\r\n" % i for i in range(300_000)))
        wire.send(b"x-request-id: late\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 200
        assert reply.headers["x-request-id"] != "late"
        assert resident(service) - before < 20_000_000


def test_knows_http_1_0_and_head(service: Service) -> None:
    with Wire(service.port) as wire:
        wire.send(get("/ping", version="1.0"))
        assert wire.reply().headers["connection"] == "close"
        assert wire.closed()
    with Wire(service.port) as wire:
        wire.send(get("/ping", version="1.0", connection="keep-alive"))
        assert wire.reply().headers["connection"] == "keep-alive"
        wire.send(get("/model", method="HEAD"))
        assert int(wire.reply(head_only=True).headers["content-length"]) > 100
        wire.send(get("/ping", connection="close"))
        assert wire.reply().status == 200
        assert wire.closed()


def test_answers_an_upgrade_in_http_1_1(service: Service) -> None:
    upgrade = get(
        "/ping", connection="Upgrade, HTTP2-Settings", upgrade="h2c", http2_settings="AAA"
    )
    with Wire(service.port) as wire:
        wire.send(upgrade)
        assert wire.reply().json == {"status": "ready"}
        wire.send(post(LARGE, connection="upgrade", upgrade="h2c") * 2 + upgrade)
        for _ in range(2):
            assert len(wire.reply().json["predictions"]) == 2000
        assert wire.reply().json == {"status": "ready"}
        wire.send(b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere\r\n\r\n")
        assert wire.reply().status == 400


@pytest.mark.parametrize("last", [{"connection": "close, upgrade"}, {"version": "1.0"}])
def test_an_upgrade_that_is_not_made_leaves_the_rest_as_it_was(
    service: Service, last: dict[str, str]
) -> None:
    with Wire(service.port) as wire:
        wire.send(get("/ping", **({"connection": "upgrade"} | last), upgrade="h2c"))
        assert wire.reply().headers["connection"] == "close"
        assert wire.closed()


def test_answers_a_slow_reader_all_that_came_before_noise(folder: Path) -> None:
    async def ask() -> None:
        model = predictor.load(folder, *bundle.verify(folder), version=None)
        connection, transport = connected(App(model))
        connection.pause_writing()
        connection.data_received(get("/livez") * 3 + b"noise\r\n\r\n")
        assert transport.written == 0
        connection.resume_writing()
        assert transport.written == 4

    asyncio.run(ask())


def test_answers_a_client_that_has_closed_its_half(service: Service) -> None:
    for body in (BODY, LARGE):
        with Wire(service.port) as wire:
            wire.send(post(body))
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.reply().status == 200
            assert wire.closed()


@pytest.mark.parametrize("target", ["/ping?x=1", "http://elsewhere/ping", "/%70ing", "/ping#a"])
def test_finds_a_path_however_it_is_written(service: Service, target: str) -> None:
    with Wire(service.port) as wire:
        wire.send(get(target))
        assert wire.reply().status == 200


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /ping HTTP/1.1\nhost: x\n\n\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        # where others might see another end of the request
        b"POST /invocations HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /ping HTTP/2.0\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nx: \x00\r\n\r\n",
    ],
)
def test_tells_what_is_not_http_after_answering_what_was(service: Service, noise: bytes) -> None:
    with Wire(service.port) as wire:
        wire.send(post(LARGE) + get("/ping") + noise)
        assert [wire.reply().status for _ in range(2)] == [200, 200]
        try:
            reply = wire.reply()
        except EOFError:  # of which nothing was wrong so far
            pytest.fail("closed without a word")
        assert reply.status == 400
        assert reply.headers["connection"] == "close"
        assert "no HTTP request" in reply.json["error"]
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /ping HTTP/1.1\r\nx: " + b"a" * 40_000, 431),  # without an end
        (b"GET /" + b"a" * 40_000, 431),
        (b"GET /ping HTTP/1.1\r\n" + b"".join(b"x%d: 1\r\n" % i for i in range(200)), 431),
        (b"GET /ping HTTP/1.1\r\n" + b"x: 1\r\n" * 200, 431),
        (b"GET /ping HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n", 431),  # all of it at once
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n", 431),
        (b"POST /invocations HTTP/1.1\r\ncontent-length: 10485761\r\n\r\n", 413),
        (b"POST /nothing HTTP/1.1\r\ncontent-length: 100\r\n\r\n", 404),
        (b"POST /invocations HTTP/1.1\r\ncontent-type: x/y\r\ncontent-length: 9\r\n\r\n", 415),
    ],
)
def test_refuses_by_the_head_alone(service: Service, head: bytes, status: int) -> None:
    with Wire(service.port) as wire:
        wire.send(head if status != 431 or head.endswith(b"a") else head + b"\r\n")
        reply = wire.reply()
        assert reply.status == status
        if reply.headers.get("connection") != "close":  # it was a whole request
            assert status == 431
            return
        wire.send(b"what is sent in the meantime is thrown away")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.closed()


def test_what_is_refused_early_was_refused_fast(service: Service) -> None:
    with Wire(service.port) as wire:
        wire.send(post(b"", content_length=str(1 << 40)))
        assert wire.reply().status == 413
    took = values_of(service)['trilho_request_seconds_sum{route="/invocations"}']
    assert float(took) < 60  # of all in this module, and not since the machine was started


def test_small_bodies_are_bounded_too(folder: Path) -> None:
    """A hundred of them without their ends: 3 MB, of which eight times the bound may be held."""
    with running(
        TRILHO_MODEL_DIR=folder, TRILHO_MAX_BODY_MB="0.1", TRILHO_LOG_REQUESTS="none"
    ) as service:
        wires = [Wire(service.port) for _ in range(100)]
        statuses = []
        for wire in wires:
            wire.send(post(b" " * 30_000)[:-1])
            if select.select([wire.socket], [], [], 0.02)[0]:
                statuses.append(wire.reply().status)
        values = values_of(service)
        assert set(statuses) == {503}
        assert int(values["trilho_buffered_bytes"]) <= 8 * 0.1 * 1024**2
        for wire in wires:
            wire.socket.close()


def test_a_body_hidden_in_the_heads_of_chunks_is_too_large(hasty: Service) -> None:
    with Wire(hasty.port) as wire:
        wire.send(post(b"", content_length="", transfer_encoding="chunked"))
        chunk = b"1;" + b"x" * 1000 + b"\r\n \r\n"
        for _ in range(3000):
            try:
                wire.send(chunk)
            except OSError:
                break
        assert wire.reply().status == 413


# ── slow clients ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"GET /ping HTTP/1.1\r\n", b"x: y\r\n"),
        (b"GET /ping HTTP/1.1\r\nx:", b"y"),
        (post(b" " * 1000)[:-500], b" "),
    ],
    ids=["lines", "head", "body"],
)
def test_a_request_must_arrive_in_time(hasty: Service, beginning: bytes, more: bytes) -> None:
    """A few bytes now and then do not buy more time."""
    with Wire(hasty.port) as wire:
        started = time.monotonic()
        wire.send(beginning)
        while not select.select([wire.socket], [], [], 0.05)[0]:
            assert time.monotonic() - started < 5
            wire.send(more)
        assert wire.reply().status == 408
        assert time.monotonic() - started > 0.4
        assert wire.closed()


def test_a_client_that_says_nothing_is_left(hasty: Service) -> None:
    with Wire(hasty.port) as wire:
        started = time.monotonic()
        assert wire.closed()
        assert time.monotonic() - started < 5


def test_a_client_that_does_not_read_is_left(hasty: Service) -> None:
    before = resident(hasty)
    with Wire(hasty.port, receive_buffer=4096) as wire:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_without_end(wire, get("/openapi.json") * 1000)
        assert resident(hasty) - before < 20 << 20
    assert hasty.predict([ROW])[0] == 200


def send_without_end(wire: Wire, data: bytes) -> None:
    while True:
        wire.send(data)


@pytest.mark.parametrize(
    "beginning", [b"", b"GET / HT", post(BODY)[:-5]], ids=["none", "head", "body"]
)
def test_slow_clients_keep_nobody_out(folder: Path, beginning: bytes) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MAX_CONNECTIONS="20") as service:
        crowd = []
        try:
            for _ in range(100):
                wire = Wire(service.port)
                wire.send(beginning)
                crowd.append(wire)
            started = time.monotonic()
            for _ in range(20):
                assert service.predict([ROW])[0] == 200
            assert time.monotonic() - started < 5  # their 10 and 30 seconds are not waited for
            _, text, _ = service.fetch("GET", "/metrics")
            values = dict(line.split(" ") for line in text.decode().splitlines() if line[0] != "#")
            assert int(values["trilho_connections"]) <= 20
            assert int(values["trilho_evicted_connections_total"]) >= 80
        finally:
            for wire in crowd:
                wire.socket.close()


def test_holds_as_many_connections_as_it_says(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MAX_CONNECTIONS="100") as service:
        wires = [Wire(service.port) for _ in range(98)]
        for wire in wires:
            wire.send(post(BODY))
        assert {wire.reply().status for wire in wires} == {200}
        assert values_of(service)["trilho_evicted_connections_total"] == "0"
        for wire in wires:
            wire.socket.close()


def test_a_client_for_whom_there_is_no_room_is_told(tmp_path: Path) -> None:
    """All connections are being answered: none of them is closed for a new one."""
    slow = slow_bundle(tmp_path / "bundle", 1.5)
    with running(TRILHO_MODEL_DIR=slow, PYTHONPATH=TESTS, TRILHO_MAX_CONNECTIONS="2") as service:
        wires = [Wire(service.port) for _ in range(2)]
        for wire in wires:
            wire.send(post(LARGE))
        time.sleep(0.3)  # until both are being answered, which nobody but a third could tell
        started = time.monotonic()
        with Wire(service.port) as third:
            reply = third.reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "try again" in reply.json["error"]
        assert time.monotonic() - started < 1
        assert [wire.reply().status for wire in wires] == [200, 200]
        assert service.predict([ROW])[0] == 200  # one of the two is idle now, and makes room
        for wire in wires:
            wire.socket.close()


def test_runs_out_of_files_and_goes_on(folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 40\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with running(python, TRILHO_MODEL_DIR=folder) as service:
        crowd = [Wire(service.port) for _ in range(100)]
        for _ in range(5):
            assert service.predict([ROW])[0] == 200
        for wire in crowd:
            wire.socket.close()
        assert service.predict([ROW])[0] == 200
        _, log = service.stop()
    assert {line["event"] for line in log} <= {"request", "stopped"}


def test_a_client_that_vanishes_leaves_nothing_behind(service: Service) -> None:
    for request in (post(LARGE), post(LARGE)[:-5], b"GET /", get("/openapi.json") * 100):
        for _ in range(20):
            wire = Wire(service.port)
            wire.send(request)
            wire.reset()
    deadline = time.monotonic() + PATIENCE
    while True:
        text = service.fetch("GET", "/metrics")[1].decode()
        values = dict(line.split(" ") for line in text.splitlines() if line[0] != "#")
        if values["trilho_buffered_bytes"] == "0" and values["trilho_connections"] == "1":
            return
        assert time.monotonic() < deadline, values
        time.sleep(0.05)


# ── more than it can bear ─────────────────────────────────────────────────────────────────────────


def test_overload_is_refused_at_once_and_passes(tmp_path: Path) -> None:
    """Thirty times the load that the model can bear; health is told all the while."""
    slow = slow_bundle(tmp_path / "bundle", 0.02)
    with running(
        TRILHO_MODEL_DIR=slow,
        PYTHONPATH=TESTS,
        TRILHO_QUEUE_SECONDS="0.2",
    ) as service:
        until = time.monotonic() + 3
        answers: list[tuple[int, float, str | None]] = []

        def client() -> None:
            connection = service.connect()
            while time.monotonic() < until:
                started = time.monotonic()
                connection.request("POST", "/invocations", BODY)
                response = connection.getresponse()
                response.read()
                took = time.monotonic() - started
                answers.append((response.status, took, response.headers["retry-after"]))
                if response.status == 503:
                    time.sleep(0.05)
            connection.close()

        clients = [threading.Thread(target=client) for _ in range(30)]
        for thread in clients:
            thread.start()
        health = []
        while time.monotonic() < until:
            started = time.monotonic()
            assert service.ask("GET", "/ping")[0] == 200
            health.append(time.monotonic() - started)
        for thread in clients:
            thread.join()

        statuses = Counter(status for status, _, _ in answers)
        assert set(statuses) == {200, 503}
        assert statuses[200] > 60  # it works as fast as it can: 150 in three seconds
        refused = sorted(took for status, took, _ in answers if status == 503)
        served_in = sorted(took for status, took, _ in answers if status == 200)
        assert refused[len(refused) // 2] < 0.1
        assert served_in[-1] < 2
        assert {retry for status, _, retry in answers if status == 503} == {"1"}
        assert sorted(health)[len(health) // 2] < 0.1
        for _ in range(5):  # by itself, and at once
            assert service.predict([ROW])[0] == 200
        text = service.fetch("GET", "/metrics")[1].decode()
        assert f'trilho_errors_total{{kind="overload"}} {statuses[503]}' in text


def test_a_line_that_is_full_takes_nobody(tmp_path: Path) -> None:
    slow = slow_bundle(tmp_path / "bundle", 0.3)
    with running(TRILHO_MODEL_DIR=slow, PYTHONPATH=TESTS, TRILHO_QUEUE="2") as service:
        wires = [Wire(service.port) for _ in range(8)]
        for wire in wires:
            wire.send(post(LARGE))
        statuses = Counter(wire.reply().status for wire in wires)
        # one is computed (or as many as there are cores), two wait
        assert 503 in statuses
        assert 3 <= statuses[200] <= 2 + 8 // 2
        for wire in wires:
            wire.socket.close()


def test_memory_is_bounded_whatever_is_sent(folder: Path) -> None:
    with running(TRILHO_MODEL_DIR=folder) as service:
        assert service.predict([ROW])[0] == 200
        before = resident(service)
        size = 10 * 1024**2
        # some 20 clients with 10 MB each, all but the last byte, then the ends
        wires = [Wire(service.port) for _ in range(20)]
        body = b"[" + b" " * (size - 2)

        def send(wire: Wire) -> None:
            try:
                wire.send(post(body, content_length=str(size)))
            except OSError:
                return

        threads = [threading.Thread(target=send, args=(wire,)) for wire in wires]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert resident(service) - before < 100 << 20  # 200 MB were sent
        statuses = []
        for wire in wires:
            try:
                wire.send(b"]")
                statuses.append(wire.reply().status)
            except OSError:
                statuses.append(0)
            wire.socket.close()
        assert set(statuses) <= {400, 503}
        assert statuses.count(503) >= 10
        assert service.predict([ROW])[0] == 200


@pytest.mark.parametrize(
    "unit",
    [b"{},", b"[],", b"1,", b'"a",', b'{"inputs":', b"[[[[[[", b'{"age":1,"married":true},'],
)
@pytest.mark.parametrize("shape", [b"[%b", b'{"instances":[%b', b'{"inputs":{"age":[%b'])
def test_a_body_made_to_swell_does_not(
    folder: Path, service: Service, unit: bytes, shape: bytes
) -> None:
    size = 10 * 1024**2 - 100
    body = shape % (unit * (size // len(unit)))
    body = body.rstrip(b",") + {b"[%b": b"]", b'{"instances":[%b': b"]}"}.get(shape, b"]}}")
    before = resident(service)
    status, answer = service.predict(body)
    assert status in (400, 413)
    assert resident(service) - before < 400 << 20
    assert len(json.dumps(answer)) < 500


# ── noise ─────────────────────────────────────────────────────────────────────────────────────────

pieces = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"/ping", b"/invocations", b"/v2", b"*"),
        *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"\n", b"\r\n\r\n", b"host: x\r\n"),
        *(b"content-length: 5\r\n", b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n"),
        *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"connection: close\r\n", b"connection: upgrade\r\n"),
        *(b"upgrade: websocket\r\n", b"expect: 100-continue\r\n", b"x-request-id: a\r\n"),
        *(b"content-type: text/csv\r\n", b"content-type: application/json\r\n", BODY, post(BODY)),
        *(post(BODY, "/v2/models/tiny/infer"), get("/metrics"), get("/docs")),
    ]
)
noise = st.lists(pieces | st.binary(max_size=20), max_size=12).map(b"".join)


@given(data=noise, cut=st.floats(0, 1))
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_survived(service: Service, data: bytes, cut: float) -> None:
    with Wire(service.port) as wire:
        middle = int(len(data) * cut)
        try:
            wire.send(data[:middle])
            wire.send(data[middle:])
            wire.socket.shutdown(socket.SHUT_WR)
            while True:
                reply = wire.reply()
                assert reply.status < 500
                assert reply.status == 100 or reply.headers["x-request-id"]
        except (EOFError, OSError, KeyError):
            pass
    assert service.process.poll() is None


def test_all_that_noise_was_no_fault_of_ours(folder: Path) -> None:
    """The same kinds of bytes in one go, with an eye on the log."""
    with running(TRILHO_MODEL_DIR=folder) as service:
        for i in range(256):
            with Wire(service.port) as wire:
                wire.send(bytes([i]) * 50 + post(BODY))
        assert service.predict([ROW])[0] == 200
        code, log = service.stop()
    assert code == 0
    assert not [line for line in log if line["event"] in ("error", "log")]


def values_of(service: Service) -> dict[str, str]:
    text = service.fetch("GET", "/metrics")[1].decode()
    return dict(line.split(" ") for line in text.splitlines() if not line.startswith("#"))


def test_the_whole_module_left_the_service_sound(service: Service) -> None:
    """Runs last: after all of the above, nothing is left and nothing failed."""
    values: dict[str, Any] = values_of(service)
    assert values['trilho_errors_total{kind="internal"}'] == "0"
    assert values["trilho_buffered_bytes"] == "0"
    assert service.predict(ROWS)[0] == 200
