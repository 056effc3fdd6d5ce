"""The HTTP face of a predictor: bare ASGI, because a framework would cost more than the model."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from trilho.serving import log
from trilho.serving.decode import BadInputError
from trilho.serving.predictor import Predictor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY = 10 * 1024 * 1024
# Bodies above this many bytes (about 60 records) are answered in a thread: on the loop they would
# hold up the others, and below it the hand-over would cost more than the work.
INLINE_BODY = 32 * 1024
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
JSON = re.compile(
    rb"\s*application/(?:json|[\w.+-]+\+json)\s*(?:;\s*charset=\"?utf-?8\"?\s*)?", re.I
)


class ProblemError(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, list(headers)


class GoneError(Exception):
    """The client left before its request was whole."""


class App:
    """The ASGI application. `draining` turns it not ready, while it still answers."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.draining = False
        self.answered = 0
        self._routes: dict[str, tuple[str, Callable[..., Awaitable[tuple[int, bytes]]]]] = {
            "/ping": ("GET", self._ready),
            "/readyz": ("GET", self._ready),
            "/livez": ("GET", self._alive),
            "/model": ("GET", self._model),
            "/invocations": ("POST", self._invocations),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # the server is configured without lifespan and websockets
        sent = dict(scope["headers"])
        request_id = sent.get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex().encode()
        headers: Headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id)]
        try:
            status, body = await self._route(scope, sent, receive)
        except BadInputError as error:
            status, body = 400, _error(error.message, error.row, error.field)
        except ProblemError as problem:
            status, body = problem.status, _error(problem.message)
            headers += problem.headers
        except GoneError:
            return
        except Exception as error:
            # Its text may hold what was submitted: only where it happened is told, and only here.
            status, body = 500, _error("internal error")
            log.event("error", request_id=request_id.decode(), error=log.where(error))
        headers.append((b"content-length", b"%d" % len(body)))
        if self.draining:
            # So that no client sends its next request into a connection that is about to close.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.answered += 1

    async def _route(
        self, scope: Scope, sent: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        route = self._routes.get(scope["path"])
        if route is None:
            raise ProblemError(404, f"there is nothing here; see {', '.join(self._routes)}")
        method, handler = route
        if scope["method"] != method:
            raise ProblemError(405, f"use {method}", (b"allow", method.encode()))
        return await handler(sent, receive)

    async def _invocations(self, sent: dict[bytes, bytes], receive: Receive) -> tuple[int, bytes]:
        kind = sent.get(b"content-type")
        if (kind is not None and not JSON.fullmatch(kind)) or b"content-encoding" in sent:
            raise ProblemError(415, "send application/json in UTF-8, not compressed")
        body = await _body(receive)
        if len(body) > INLINE_BODY:
            return 200, await asyncio.to_thread(self.predictor.answer, body)
        return 200, self.predictor.answer(body)

    async def _ready(self, *_: object) -> tuple[int, bytes]:
        if self.draining:
            return 503, b'{"status":"draining"}'
        return 200, b'{"status":"ready"}'

    async def _alive(self, *_: object) -> tuple[int, bytes]:
        return 200, b'{"status":"alive"}'

    async def _model(self, *_: object) -> tuple[int, bytes]:
        return 200, self.predictor.card


async def _body(receive: Receive) -> bytes:
    """Return the request's body; of one that is too large the rest is read and thrown away.

    A client that is still sending would lose an answer that comes before it has finished, because
    the closing connection is reset. So it is heard to the end, within reason.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]  # the usual case: all of it at once
        if len(body) <= MAX_BODY:
            return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise GoneError
        size += len(message["body"])
        if size <= MAX_BODY:
            parts.append(message["body"])
        else:
            parts.clear()
        if not message.get("more_body") or size > 10 * MAX_BODY:
            break
        message = await receive()
    if size > MAX_BODY:
        limit = f"{MAX_BODY // 1024**2} MB"
        raise ProblemError(413, f"the body is larger than {limit}", (b"connection", b"close"))
    return b"".join(parts)


def _error(message: str, row: int | None = None, field: str | None = None) -> bytes:
    error: dict[str, object] = {"error": message}
    if row is not None:
        error["row"] = row
    if field is not None:
        error["field"] = field
    return msgspec.json.encode(error)
