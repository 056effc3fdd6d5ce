"""The predictions that wait: small ones for the loop, large ones for a thread.

A small prediction takes less time than handing it to a thread, so the loop computes it, together
with those that wait beside it, and looks at the network in between. What waits is bounded, in
number and in time: where the first in the line has waited too long, the next one is told so at once
and not after the same wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from trilho.serving import log
from trilho.serving.messages import OVERLOADED, Request, Response

if TYPE_CHECKING:
    from trilho.serving.connection import Connection

# Larger bodies are answered in a thread: on the loop they would hold up the others.
INLINE_BODY = 32 * 1024
# What the loop computes before it looks at the network again.
SLICE_SECONDS = 0.0005
# Requests answered together: more give little, and the first of them waits for all. Fewer if so
# many take longer than this.
TOGETHER = 32
TOGETHER_SECONDS = 0.002


class Waiting(NamedTuple):
    request: Request
    connection: Connection


class Work:
    """The line of small predictions, and that of large ones.

    Parameters
    ----------
    answer
        What answers requests; called by the loop with some at a time, and by threads.
    predicted
        Called on the loop with requests whose answers were written.
    turn
        Called with the seconds that a request has waited when its turn comes.
    most
        How many may wait in each line.
    patience
        Seconds; while the first of a line has waited longer, nobody is let in.
    threads
        How many large predictions are computed at once.
    """

    def __init__(
        self,
        answer: Callable[[list[Request]], list[Response]],
        predicted: Callable[[list[Request]], None],
        turn: Callable[[float], None] | None,
        *,
        most: int,
        patience: float,
        threads: int,
    ) -> None:
        self._answer = answer
        self._predicted = predicted
        self._turn = turn
        self._most = most
        self._patience = patience
        self._small: deque[Waiting] = deque()
        self._large: deque[Waiting] = deque()
        self._threads = ThreadPoolExecutor(threads, "predict")
        self._idle = threads
        self._scheduled = False
        self._together = 1
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def submit(self, request: Request, connection: Connection) -> Response | None:
        """Let a request wait for its turn; return a refusal if there is too much already."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        large = len(request.body) > INLINE_BODY or request.large
        line = self._large if large else self._small
        if line and (
            len(line) >= self._most or request.whole - line[0].request.whole > self._patience
        ):
            return OVERLOADED
        line.append(Waiting(request, connection))
        if large:
            self._next_large()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next_small)
        return None

    def _next_small(self) -> None:
        try:
            self._compute_some()
        finally:  # whatever happens, the line goes on
            self._scheduled = bool(self._small)
            if self._small:
                assert self._loop is not None
                self._loop.call_soon(self._next_small)

    def _compute_some(self) -> None:
        line = self._small
        until = time.monotonic() + SLICE_SECONDS
        while line:
            started = time.monotonic()
            some = self._some(started)
            if not some:
                break
            requests = [request for request, _ in some]
            for waiting, response in zip(some, self._answer(requests), strict=True):
                self._respond(waiting, response)
            now = time.monotonic()
            self._predicted(requests)
            if now - started > TOGETHER_SECONDS:  # a slow model
                self._together = max(1, self._together // 2)
            elif len(some) == self._together:
                self._together = min(TOGETHER, self._together * 2)
            if now > until:
                break

    def _some(self, now: float) -> list[Waiting]:
        """Take the first few that wait, as many as are likely to be answered in a slice."""
        some: list[Waiting] = []
        left = INLINE_BODY
        while self._small and len(some) < self._together and left > 0:
            waiting = self._small.popleft()
            request, connection = waiting
            if connection.gone:
                connection.release(request)
                continue
            if self._turn is not None:
                self._turn(now - request.whole)
            left -= len(request.body)
            some.append(waiting)
        return some

    def _respond(self, waiting: Waiting, response: Response) -> None:
        """Answer one client; whatever fails there, the others get theirs."""
        try:
            waiting.connection.respond_later(waiting.request, response)
        except Exception as error:
            self._give_up(waiting, error)

    def _give_up(self, waiting: Waiting, error: Exception) -> None:
        request, connection = waiting
        log.event("error", request_id=request.id.decode(), error=log.where(error))
        connection.release(request)
        connection.transport.abort()

    def _next_large(self) -> None:
        while self._large and self._idle:
            request, connection = self._large.popleft()
            if connection.gone:
                connection.release(request)
                continue
            if self._turn is not None:
                self._turn(time.monotonic() - request.whole)
            self._idle -= 1
            try:
                self._threads.submit(self._in_thread, request, connection)
            except RuntimeError as error:  # there is no room for a thread
                self._idle += 1
                self._give_up(Waiting(request, connection), error)

    def _in_thread(self, request: Request, connection: Connection) -> None:
        (response,) = self._answer([request])
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended without waiting
            self._loop.call_soon_threadsafe(self._done, request, connection, response)

    def _done(self, request: Request, connection: Connection, response: Response) -> None:
        self._idle += 1
        self._respond(Waiting(request, connection), response)
        self._predicted([request])
        self._next_large()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
