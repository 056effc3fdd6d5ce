"""A request, its answer, and what may be wrong with it: what all parts of the service speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from trilho.serving.app import Route
    from trilho.serving.columns import Batch
    from trilho.serving.predictor import Share

JSON = b"application/json"


class Response(NamedTuple):
    """An answer; `extra` holds further header lines, each with its line end."""

    status: int
    body: bytes
    kind: bytes = JSON
    extra: bytes = b""
    problem: str | None = None  # the kind of error, for the metrics


class Request:
    """A request from its head on; `body` is whole when it is answered."""

    __slots__ = (
        "body",
        "buffer",
        "headers",
        "held",
        "id",
        "keep",
        "large",
        "method",
        "old",
        "read",
        "refusal",
        "route",
        "seconds",
        "share",
        "target",
        "whole",
    )

    def __init__(self, method: bytes, target: bytes, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.target = target  # as it was sent: the path, perhaps with a query
        self.headers = headers  # names in lower case
        self.body = b""
        self.buffer: bytearray | None = None  # of a body that comes in several parts
        self.held = 0  # bytes of the body that are in memory
        self.whole = 0.0  # when the last byte had come, in seconds of `time.monotonic`
        self.keep = False  # whether the connection may stay open afterwards
        self.old = False  # HTTP/1.0
        self.id = b""
        self.route: Route | None = None
        self.read: Callable[[bytes], Batch] | None = None  # by its content type
        self.large = False  # much work, though the body be small
        self.refusal: Response | None = None  # the answer, if it is settled before the body
        self.share: Share | None = None  # of a prediction: its rows
        self.seconds: float | None = None  # from its last byte to its answer; None: not answered


class ProblemError(Exception):
    """A request that gets an error for an answer; its text never holds what was submitted.

    Parameters
    ----------
    status
        Of the answer.
    kind
        One of `KINDS`, for the metrics.
    message
        What was expected.
    row, field
        Where, if it is about one value; rows count from 0.
    extra
        Header lines.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        row: int | None = None,
        field: str | None = None,
        extra: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.row, self.field, self.extra = row, field, extra

    def response(self) -> Response:
        error: dict[str, object] = {"error": self.message}
        if self.row is not None:
            error["row"] = self.row
        if self.field is not None:
            error["field"] = self.field
        return Response(self.status, msgspec.json.encode(error), JSON, self.extra, self.kind)


class BadInputError(ProblemError):
    """A body that cannot be predicted."""

    def __init__(
        self, message: str, row: int | None = None, field: str | None = None, kind: str = "value"
    ) -> None:
        super().__init__(400, kind, message, row, field)


class TooLargeError(ProblemError):
    """More than one request may hold."""

    def __init__(self, message: str) -> None:
        super().__init__(413, "too_large", message)


# All kinds of problems, so that their counters exist from the start.
KINDS = {
    "http": "not HTTP as this service speaks it",
    "not_found": "no such path or model",
    "method": "another method",
    "unauthorized": "no API key, or a wrong one",
    "media_type": "a content type that is not served",
    "too_large": "a head or a body beyond its bounds",
    "timeout": "a request that did not arrive in time",
    "overload": "refused because too much was waiting",
    "body": "a body that cannot be read",
    "missing_field": "a required field is missing",
    "value": "a value of the wrong type or out of range",
    "refused": "a value that the model refuses",
    "internal": "a fault of ours",
}

OVERLOADED = ProblemError(
    503, "overload", "too much is waiting; try again later", extra=b"retry-after: 1\r\n"
).response()
