"""One worker's life: accept, watch the time, drain, stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate

from trilho.serving import log
from trilho.serving.app import App
from trilho.serving.connection import Connection
from trilho.serving.measures import Measures
from trilho.serving.messages import OVERLOADED
from trilho.serving.settings import Settings
from trilho.serving.shared import Shared
from trilho.serving.work import Work

BACKLOG = 4096  # the kernel takes less if it must
TICK_SECONDS = 0.25
# How many connections are accepted before those that are open have their turn.
ACCEPTS = 64
# What a worker with more connections than another leaves the other to accept the next one.
PRECEDENCE_SECONDS = 0.001
NO_FILE_SECONDS = 0.05
# For requests in flight, after the drain: with its default of 5 s far below ECS's 30 s.
FINISH_SECONDS = 15.0
# For the first request of a client that has come at the last moment.
NEWCOMER_SECONDS = 1.0
# What it says to a client for whom there is no room.
NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nretry-after: 1\r\nconnection: close\r\n\r\n%b"
    % (len(OVERLOADED.body), OVERLOADED.body)
)


class Worker:
    """Serves `listener` until it is told to end.

    Parameters
    ----------
    app
        Answers the requests.
    options
        The service's settings.
    listener
        A bound socket; other workers may share it.
    number, measures
        This worker's row of the shared metrics.
    lines
        The log, to be written now and then.
    threads
        How many large predictions are computed at once.
    """

    def __init__(
        self,
        app: App,
        options: Settings,
        listener: socket.socket,
        *,
        number: int,
        measures: Measures,
        lines: log.Lines,
        threads: int,
    ) -> None:
        limits = options.limits
        self._options = options
        self._app = app
        self._listener = listener
        self._number = number
        self._measures = measures
        self._lines = lines
        self._work = Work(
            app.answer_together,
            app.predicted,
            measures.turn if options.metrics else None,
            most=limits.queue,
            patience=limits.queue_seconds,
            threads=threads,
        )
        self._shared = Shared(app, self._work, limits)
        self._accepting: set[asyncio.Task[object]] = set()
        self._ended: asyncio.Future[None]
        self._deferred = False
        self.on_tick: list[Callable[[], None]] = []
        app.before_metrics = self._gauge

    async def live(self, ready: Callable[[], None]) -> None:
        """Serve; `ready` is called when clients can connect."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._loop.add_signal_handler(signal.SIGINT, self.close)
        self._tick()
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._loop.add_reader(self._listener, self._accept)
        ready()
        await self._ended
        await self._finish()
        self._work.close()

    # ── connections ───────────────────────────────────────────────────────────────────────────────

    def _accept(self) -> None:
        """Take new connections; the worker with the fewest has precedence."""
        cell = self._measures.connections.start
        others = self._measures.registry.column(cell)
        if others[self._number] > min(others) and not self._deferred:
            self._deferred = True
            self._pause(PRECEDENCE_SECONDS)
            return
        self._deferred = False
        for _ in range(1 if len(others) > 1 else ACCEPTS):
            if not self._accept_one():
                break

    def _pause(self, seconds: float) -> None:
        """Leave new clients in the backlog for a while."""
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self._ended.done():
            self._loop.add_reader(self._listener, self._accept)
            self._accept()

    def _accept_one(self) -> bool:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self._make_room()  # no file for one more: the backlog waits until there is
            self._pause(NO_FILE_SECONDS)
            return False
        client.setblocking(False)
        with suppress(OSError):  # it may have gone already
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._admit(client)

    def _admit(self, client: socket.socket) -> bool:
        # at the end all are taken that have connected: there will be no more of them
        full = self._count() >= self._options.limits.connections and not self._ended.done()
        if full and not self._make_room():
            if self._shared.opening:  # they are too new to be closed, but not for long
                self._loop.call_soon(self._admit, client)
                return False
            _send_away(client)
            return True
        connection = Connection(self._shared)
        self._shared.opening.add(connection)
        opening = self._loop.connect_accepted_socket(lambda: connection, client)
        task = self._loop.create_task(opening)
        self._accepting.add(task)
        task.add_done_callback(lambda task: self._accepted(task, connection))
        self._count()
        return True

    def _accepted(self, task: asyncio.Task[object], connection: Connection) -> None:
        self._accepting.discard(task)
        self._shared.opening.discard(connection)  # if it was gone before it was under way
        if not task.cancelled():
            task.exception()  # which would be told of otherwise

    def _count(self) -> int:
        """Count the connections, for the other workers to see."""
        number = len(self._shared.connections) + len(self._shared.opening)
        self._measures.registry.cells[self._measures.connections.start] = number
        return number

    def _make_room(self) -> bool:
        """Close a slow client's connection, or an idle one; what is answered is left alone."""
        found = [
            (urgency, connection)
            for connection in self._shared.connections
            if (urgency := connection.displaceable()) is not None
        ]
        self._measures.registry.cells[self._measures.evicted.start] += 1
        if not found:
            return False
        min(found, key=lambda pair: pair[0])[1].transport.abort()
        return True

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        """Do what is due now and then."""
        self._loop.call_later(TICK_SECONDS, self._tick)
        now = time.monotonic()
        self._shared.date = formatdate(usegmt=True).encode()
        for connection in list(self._shared.connections):
            if now > connection.deadline:
                connection.expire()
        self._gauge()
        self._lines.flush()
        for call in self.on_tick:
            call()

    def _gauge(self) -> None:
        """Tell what is now."""
        cells, measures = self._measures.registry.cells, self._measures
        self._count()
        cells[measures.waiting.start] = len(self._work)
        cells[measures.buffered.start] = self._shared.buffered
        cells[measures.ready.start] = 0 if self._app.draining else 1

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def _drain(self) -> None:
        if self._app.draining:  # a second signal: whoever sends it does not want to wait
            self.close()
            return
        self._app.draining = True
        if self._options.workers == 1:  # else the supervisor says it once for all
            log.event("drain", seconds=self._options.drain_seconds)
        self._loop.call_later(self._options.drain_seconds, self.close)

    def close(self) -> None:
        """End: take no more connections, answer what is under way."""
        self._app.draining = True
        if not self._ended.done():
            self._ended.set_result(None)

    async def _finish(self) -> None:
        self._loop.remove_reader(self._listener)
        while self._accept_one():  # who is in the backlog has connected, as far as he knows
            pass
        self._listener.close()
        await asyncio.sleep(TICK_SECONDS / 5)  # hear what had arrived already
        started = time.monotonic()
        while self._shared.connections or self._accepting:
            age = time.monotonic() - started
            for connection in list(self._shared.connections):
                if age > FINISH_SECONDS:
                    connection.transport.abort()
                else:
                    connection.finish(patient=age < NEWCOMER_SECONDS)
            await asyncio.sleep(0.01)
        for task in self._accepting:
            task.cancel()


def _send_away(client: socket.socket) -> None:
    with suppress(OSError):
        client.send(NO_ROOM)
    client.close()
