"""The service's log: one JSON object per line on stderr, for people and collectors alike.

It never holds anything that a client submitted, except the request id.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TextIO

import msgspec

# A pipe takes this much at once without mixing it with what other workers write.
ATOMIC = 4096
MAX_WAITING = 4 << 20
STUCK_SECONDS = 1.0


def event(name: str, **fields: object) -> None:
    """Write one line: now, or with the next ones after `through`."""
    record = {"time": stamp(), "event": name, **fields}
    line = msgspec.json.encode(record, enc_hook=str) + b"\n"
    if _lines is not None:
        _lines.add(line)
    elif _writable(sys.stderr):
        sys.stderr.write(line.decode())
        sys.stderr.flush()


def through(lines: Lines | None) -> None:
    """Send events the way of `lines` from now on, or directly again."""
    global _lines
    _lines = lines


_lines: Lines | None = None


def _writable(stream: TextIO) -> bool:
    """Whether a line can be written; a collector that is stuck must not stop the service."""
    try:
        return bool(select.select([], [stream], [], STUCK_SECONDS)[1])
    except (OSError, ValueError):  # something that cannot be waited for, so it need not be
        return True


def stamp() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


class Lines:
    """Lines that are written by a thread, some at a time: a slow collector holds up no request.

    What waits is bounded; beyond the bound lines are dropped, and their number is told.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._second = (0, b"")
        self._writer = ThreadPoolExecutor(1, "log")
        self._busy: Future[None] | None = None

    def request(
        self, method: bytes, route: str, status: int, id: bytes, rows: int, seconds: float
    ) -> None:
        """Add a line about a request; all arguments are safe characters already."""
        now = time.time()
        second = int(now)
        if second != self._second[0]:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)).encode())
        self.add(
            b'{"time":"%b.%03dZ","event":"request","request_id":"%b","method":"%b","route":"%b",'
            b'"status":%d,"rows":%d,"milliseconds":%.3f}\n'
            % (
                *(self._second[1], int(now % 1 * 1000), id, method, route.encode()),
                *(status, rows, seconds * 1000),
            )
        )

    def add(self, line: bytes) -> None:
        if self._size > MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Hand what waits to the thread, unless it is still busy with what it got before."""
        if self._busy is not None and not self._busy.done():
            return
        if self._dropped:
            record = {"time": stamp(), "event": "dropped", "lines": self._dropped}
            self._waiting.append(msgspec.json.encode(record) + b"\n")
            self._dropped = 0
        if self._waiting:
            lines, self._waiting, self._size = self._waiting, [], 0
            self._busy = self._writer.submit(_write, self._descriptor, lines)

    def close(self, seconds: float) -> None:
        """Write the rest, as far as that is possible in so many seconds."""
        until = time.monotonic() + seconds
        while (self._waiting or self._dropped or self._busy) and time.monotonic() < until:
            self.flush()
            if self._busy is not None:
                try:
                    self._busy.result(max(0.0, until - time.monotonic()))
                except TimeoutError:
                    break
                self._busy = None
        self._writer.shutdown(wait=False, cancel_futures=True)


def _write(descriptor: int, lines: list[bytes]) -> None:
    """Write whole lines, in pieces that are not mixed with another process's."""
    piece = b""
    for line in lines:
        if len(piece) + len(line) > ATOMIC:
            _write_all(descriptor, piece)
            piece = b""
        piece += line
    _write_all(descriptor, piece)


def _write_all(descriptor: int, piece: bytes) -> None:
    try:
        while piece:
            piece = piece[os.write(descriptor, piece) :]
    except OSError:  # nobody reads the log any more
        return


class Handler(logging.Handler):
    """Turns what libraries log into such lines, without tracebacks: they may quote data."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        error = {} if kind is None else {"error": kind.__name__}
        event("log", level=record.levelname, message=record.getMessage(), **error)


def capture_libraries() -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[Handler()], force=True)


def where(error: BaseException) -> str:
    """Return the kind of `error` and the line that raised it, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return type(error).__name__ + place
