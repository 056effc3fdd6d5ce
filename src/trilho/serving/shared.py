"""What the connections of a worker have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from trilho.serving.messages import Request, Response

if TYPE_CHECKING:
    from trilho.serving.connection import Connection
    from trilho.serving.settings import Limits
    from trilho.serving.work import Work


class App(Protocol):
    """What a connection asks for answers."""

    draining: bool

    def identify(self, request: Request) -> None:
        """Give the request its id."""

    def admit(self, request: Request) -> Response | None:
        """Look at a request's head; return the answer if that settles it."""

    def answer(self, request: Request) -> Response:
        """Answer a whole request; never raises."""

    def finished(self, request: Request, response: Response, seconds: float) -> None:
        """Take note of an answer that was written."""


@dataclass
class Shared:
    """A worker's state, as its connections see and change it."""

    app: App
    work: Work
    limits: Limits
    opening: set[Connection] = field(default_factory=set)  # accepted, not yet under way
    connections: set[Connection] = field(default_factory=set)
    buffered: int = 0  # bytes of request bodies in memory
    date: bytes = b""
