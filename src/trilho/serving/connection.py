"""One client's connection: HTTP/1.1, read by llhttp, with a bound on whatever a client does.

A server of our own rather than a framework's: it halves what a small prediction costs, and the
bounds (on heads, bodies, time, memory, on what waits) belong where the bytes arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, cast

import httptools

from trilho.serving.messages import OVERLOADED, ProblemError, Request, Response

if TYPE_CHECKING:
    from trilho.serving.shared import Shared

MAX_HEAD = 32 * 1024
MAX_FIELDS = 100
VERSIONS = ("1.0", "1.1")
# Bodies up to so many bytes may take as much memory again as the larger ones.
SMALL = 32 * 1024
HEAD_SECONDS = 10.0
# Longer than a load balancer keeps idle connections (60 s on AWS), so that the balancer is always
# the one to close them: it would answer 502 when a request meets a closing connection.
KEEP_ALIVE_SECONDS = 75.0
# Answers given in one go to a client that sends requests without waiting; then others have a turn.
TURN = 32

STATUS = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class Connection(asyncio.Protocol):
    """A connection's life; requests on it are answered one after the other.

    Attributes
    ----------
    deadline
        When, in seconds of `time.monotonic`, `expire` is due.
    gone
        The client is no longer there.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.transport: asyncio.Transport
        self.gone = False
        self.since = time.monotonic()  # when the client's present silence or request began
        self.deadline = self.since + min(HEAD_SECONDS, shared.limits.receive_seconds)
        self._parser = httptools.HttpRequestParser(self)
        self._fresh = True  # nothing was ever received
        self._in_head = False
        self._head = self._fields = 0  # bytes and fields of the head that is being received
        self._part = 0  # bytes that have just come
        self._received = 0  # bytes of the request that is being received
        self._incoming: Request | None = None  # its head is known, its body is not whole
        self._pipeline: deque[Request] = deque()  # whole, behind the one that is being answered
        self._current: Request | None = None  # being answered
        self._blocked = False  # the client does not read its answers
        self._paused = False  # we do not read its requests
        self._final = False  # it has said that a request is its last
        self._ended = False  # it will send nothing more
        self._deaf = False  # what it sends is thrown away
        self._unheard = False  # it may still be sending when the connection ends

    # ── what the transport tells ──────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self.shared.opening.discard(self)
        self.shared.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        self.shared.connections.discard(self)
        self._forget()

    def data_received(self, data: bytes) -> None:
        self._part = len(data)
        self._received += self._part
        if self._deaf or self._final:
            self._unheard = True
            if self._received > 10 * self.shared.limits.body:
                self.transport.abort()
            return
        self._fresh = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if self._final:  # what comes after the last request is nothing to answer
                self._unheard = True
            else:
                self._refuse(400, "http", "this is no HTTP request that can be answered")
        if self._in_head and self._received > MAX_HEAD:
            self._refuse(431, "too_large", f"the head is larger than {MAX_HEAD} bytes")
        if self._received > 2 * self.shared.limits.body + MAX_HEAD:  # most of it in chunks' heads
            self._refuse(413, "too_large", "the request is too large")
        self._advance()
        if (self._in_head or self._incoming) and not (self._deaf or self._busy()):
            self.since = self.since or time.monotonic()
            self._rest()
            incoming = self._incoming
            if incoming is not None and incoming.refusal is not None:
                self._unheard = True  # the answer does not depend on the rest
                incoming.whole = time.monotonic()
                self._begin(incoming)
                self.respond(incoming, incoming.refusal)

    def _feed(self, data: bytes) -> None:
        """Parse; a request to speak something else is read as if it had not been made."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                method = self._parser.get_method()
                if method == b"CONNECT":
                    raise httptools.HttpParserError from None
                version = self._parser.get_http_version().encode()
                lines = [b"%b %b HTTP/%b" % (method, self._target, version)]
                for name, value in self._headers.items():
                    if name not in (b"upgrade", b"connection"):
                        lines.append(b"%b: %b" % (name, value))
                if b"close" in self._headers.get(b"connection", b"").lower():
                    lines.append(b"connection: close")
                data = b"\r\n".join([*lines, b"", data[upgrade.args[0] :]])
                self._parser = httptools.HttpRequestParser(self)

    def eof_received(self) -> bool:
        self._ended = True
        return self._busy()  # stay open for the answers that are owed

    def pause_writing(self) -> None:
        self._blocked = True
        self.deadline = time.monotonic() + self.shared.limits.send_seconds

    def resume_writing(self) -> None:
        self._blocked = False
        if self.transport.is_closing():
            return
        if not self._deaf:
            self._rest()
        self._advance()

    # ── what the parser tells ─────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._in_head = True
        self._head = self._fields = 0
        self._received = self._part
        self.since = 0.0

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head += len(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a field behind a body in chunks: nobody needs it
            return
        self._fields += 1
        self._head += len(name) + len(value)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._parser.should_upgrade():  # its body would not be read
            return
        app, headers = self.shared.app, self._headers
        version, coding = self._parser.get_http_version(), headers.get(b"transfer-encoding")
        if version not in VERSIONS or (
            coding is not None and (coding.lower() != b"chunked" or version == "1.0")
        ):  # others may see another end of it than we do
            raise httptools.HttpParserError
        request = Request(self._parser.get_method(), self._target, headers)
        self._incoming = request
        request.old = version == "1.0"
        app.identify(request)
        if self._fields > MAX_FIELDS or self._head > MAX_HEAD:
            text = f"the head is larger than {MAX_HEAD} bytes or {MAX_FIELDS} fields"
            request.refusal = ProblemError(431, "too_large", text).response()
            return
        request.refusal = app.admit(request)
        length = headers.get(b"content-length")
        if request.refusal is not None:
            return
        if length is not None and int(length) > self.shared.limits.body:
            request.refusal = self._too_large()
        elif b"expect" in headers:
            self._expected(request, body=coding is not None or length not in (None, b"0"))

    def _expected(self, request: Request, *, body: bool) -> None:
        """Tell a client that waits with its body that it may send it."""
        waits = request.headers[b"expect"].lower() == b"100-continue"
        if waits and body and not request.old and not self._busy():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        request = self._incoming
        if request is None or request.refusal is not None:
            return
        shared = self.shared
        size = request.held + len(part)
        if size > shared.limits.body:
            request.refusal = self._too_large()
        elif shared.buffered + len(part) > shared.limits.memory * (1 if size > SMALL else 2):
            request.refusal = OVERLOADED
        else:
            if not request.held:
                request.body = part  # the usual case: all of it at once
            else:
                request.buffer = request.buffer or bytearray(request.body)
                request.buffer += part
            request.held = size
            shared.buffered += len(part)
            return
        self.release(request)

    def on_message_complete(self) -> None:
        request = self._incoming
        if request is None:
            return
        self._incoming = None
        self._part = 0  # what else has come belongs to the next one
        if request.buffer is not None:
            request.body, request.buffer = bytes(request.buffer), None
        request.keep = self._parser.should_keep_alive()
        self._final = not request.keep
        request.whole = time.monotonic()
        self._pipeline.append(request)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Start what waits, one after the other; read on when nothing does."""
        turns = TURN
        while self._pipeline and self._current is None and not (self._blocked or self.gone):
            if not turns:
                asyncio.get_running_loop().call_soon(self._advance)
                break
            turns -= 1
            request = self._pipeline.popleft()
            self._begin(request)
            response = request.refusal
            if response is None:
                assert request.route is not None
                if request.route.accepts is not None:
                    response = self.shared.work.submit(request, self)
                else:
                    response = self.shared.app.answer(request)
            if response is not None:
                self.respond(request, response)
        if self.gone or self._deaf:
            return
        stop = bool(self._pipeline) or self._blocked
        if stop != self._paused:
            self._paused = stop
            if stop:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _begin(self, request: Request) -> None:
        self._current = request
        self.deadline = inf

    def respond(self, request: Request, response: Response) -> None:
        """Write the answer to the request that is being answered."""
        self.release(request)
        self._current = None
        if self.gone:
            return
        now = time.monotonic()
        last = self._unheard or self.shared.app.draining or self._ended or self._deaf
        keep = bool(self._pipeline) or (request.keep and not last)
        self._write(request, response, keep)
        self.shared.app.finished(request, response, now - request.whole)
        if keep:
            self.since = self.since or now
            self._rest()
        else:
            self._end()

    def respond_later(self, request: Request, response: Response) -> None:
        """Write an answer that comes from the queue, and go on with what waits behind it."""
        self.respond(request, response)
        if self._pipeline or self._paused:
            self._advance()

    def _write(self, request: Request, response: Response, keep: bool) -> None:
        extra = response.extra
        if not keep:
            extra += b"connection: close\r\n"
        elif request.old:
            extra += b"connection: keep-alive\r\n"
        body = response.body
        head = (
            b"%bcontent-type: %b\r\ndate: %b\r\nx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n"
            % (
                *(STATUS[response.status], response.kind, self.shared.date, request.id),
                *(len(body), extra),
            )
        )
        if request.method == b"HEAD":
            self.transport.write(head)
        elif len(body) < SMALL:
            self.transport.write(head + body)
        else:
            self.transport.writelines([head, body])

    def _rest(self) -> None:
        """Wait for the next request, or for the rest of one."""
        if self._blocked:
            return
        seconds = self.shared.limits.receive_seconds
        if self._in_head:
            seconds = min(seconds, HEAD_SECONDS)
        elif self._incoming is None:
            seconds = KEEP_ALIVE_SECONDS
        self.deadline = self.since + seconds

    def _end(self) -> None:
        """Close when what is written is sent.

        A client that is still sending would lose the answer, because a closing connection that
        gets more data is reset. So it is told that nothing more comes, and what it sends is thrown
        away until it is done.
        """
        linger = (self._unheard or self._incoming is not None) and not self._ended
        self._forget()
        self._deaf = True
        self.deadline = time.monotonic() + self.shared.limits.send_seconds
        if linger:
            self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.transport.close()

    def _refuse(self, status: int, kind: str, message: str) -> None:
        """Answer what cannot be a request, after those before it, and close."""
        if self._deaf:
            return
        request = self._incoming
        if request is None:
            request = Request(b"", b"", {})
            self.shared.app.identify(request)
        self._incoming = None
        request.refusal = request.refusal or ProblemError(status, kind, message).response()
        request.keep = False
        request.whole = time.monotonic()
        self.release(request)
        self._pipeline.append(request)
        self._in_head = False
        self._deaf = self._unheard = True

    # ── time and room ─────────────────────────────────────────────────────────────────────────────

    def expire(self) -> None:
        """End what lasts too long: an idle connection, a slow sender, a slow reader."""
        if self._deaf or self._blocked or self.transport.is_closing():
            self.transport.abort()
        elif self._in_head or self._incoming is not None:
            self._refuse(408, "timeout", "the request did not arrive in time")
            self._unheard = False  # nobody waits for the rest
            self._advance()
        else:
            self.close()

    def close(self) -> None:
        """Close at once, as far as the client reads what is written."""
        self._deaf = True
        self.deadline = time.monotonic() + self.shared.limits.send_seconds
        self.transport.close()

    def finish(self, *, patient: bool) -> None:
        """Close unless something is on its way; be `patient` with a client that has just come."""
        waiting = self._in_head or self._incoming is not None or self._busy() or self._deaf
        if not waiting and not (patient and self._fresh):
            self.close()

    def displaceable(self) -> tuple[bool, float] | None:
        """How soon this may be closed to make room: slow clients first, then idle ones; or not."""
        if self._busy() or self.transport.is_closing():
            return None
        slow = self._fresh or self._in_head or self._incoming or self._blocked or self._deaf
        return not slow, self.since

    def _busy(self) -> bool:
        return self._current is not None or bool(self._pipeline)

    def _forget(self) -> None:
        """Let go of the requests that are not being answered."""
        for request in (self._incoming, *self._pipeline):
            if request is not None:
                self.release(request)
        self._incoming = None
        self._in_head = False
        self._pipeline.clear()

    def release(self, request: Request) -> None:
        """Let go of a request's body."""
        self.shared.buffered -= request.held
        request.held = 0
        request.body, request.buffer = b"", None

    def _too_large(self) -> Response:
        limit = f"{self.shared.limits.body // 1024**2} MB"
        return ProblemError(413, "too_large", f"the body is larger than {limit}").response()
