"""HTTP by hand: what no well-behaved client sends, and what a client cannot see of the answers."""

from __future__ import annotations

import json
import socket
import struct
from types import TracebackType
from typing import Any, NamedTuple


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection to a service on this machine."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, *, head_only: bool = False) -> Reply:
        """Read one answer.

        Raises
        ------
        EOFError
            The service closed the connection instead.
        """
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        status = int(first.split(" ")[1])
        size = 0 if head_only or status == 100 else int(headers["content-length"])
        while len(self._rest) < size:
            self._more()
        body, self._rest = self._rest[:size], self._rest[size:]
        return Reply(status, headers, body)

    def closed(self) -> bool:
        """Wait until the service closes; False when it says something instead."""
        try:
            return not self._rest and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Vanish without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._rest += data


def post(body: bytes, path: str = "/invocations", *, version: str = "1.1", **headers: str) -> bytes:
    """A request's bytes; names of headers are written with underscores."""
    lines = [f"POST {path} HTTP/{version}", "host: x"]
    named = {"content_type": "application/json", "content_length": str(len(body))} | headers
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, *, method: str = "GET", version: str = "1.1", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()
