"""The service's log: one JSON object per line on stderr, for people and collectors alike."""

from __future__ import annotations

import logging
import sys
import time

import msgspec


def event(name: str, **fields: object) -> None:
    """Write one line; it never holds anything that a client submitted, except the request id."""
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    line = msgspec.json.encode({"time": at, "event": name, **fields}, enc_hook=str)
    sys.stderr.write(line.decode() + "\n")
    sys.stderr.flush()


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
