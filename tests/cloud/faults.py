"""What can befall a deployment between this process and AWS: refusals, silence, sudden death."""

from __future__ import annotations

import io
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError

from trilho.deploy import ecs
from trilho.storage import aws

KILLED = 137
EXPIRED = "ExpiredToken"
THROTTLED = "Throttled"
TIMES_OUT = "TimesOut"
ANSWERS = {
    EXPIRED: (400, "ExpiredTokenException", 400, "ExpiredToken"),
    THROTTLED: (400, "ThrottlingException", 503, "SlowDown"),
}
CHANGING = re.compile(r"\.(Put|Update|Register)")
READING = re.compile(r"\.(Get|Head|List|Describe)")

Fault = Callable[[str, int], str | None]
"""From a call such as `ecs.UpdateService` and its number to what befalls it."""


class Line:
    """The line to AWS: counts the calls that the verbs make, and lets faults befall them."""

    def __init__(self, patch: Any) -> None:
        self.calls: list[str] = []
        self.fault: Fault = lambda *_: None
        self.last: int | None = None  # the process dies when this call was answered
        self._mine = threading.local()
        self._lock = threading.Lock()
        # boto3 shall try again as often as ever, but at once
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        limiter = "botocore.retries.adaptive.ClientRateLimiter.on_sending_request"
        patch.setattr(limiter, lambda *_, **__: None)
        self._clients: dict[str, Any] = {"s3": aws.client("s3"), "ecs": ecs.connect()}
        for client in self._clients.values():
            client.meta.events.register("before-send", self._send)
            client.meta.events.register("after-call", self._answered)
        patch.setattr(aws, "client", self._clients.__getitem__)
        patch.setattr(ecs, "connect", lambda: self._clients["ecs"])

    def reset(self) -> None:
        self.calls, self.fault, self.last = [], lambda *_: None, None

    def _send(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        _, service, operation = event_name.split(".")
        with self._lock:
            number = len(self.calls)
            self.calls.append(f"{service}.{operation}")
        self._mine.number = number
        fault = self.fault(f"{service}.{operation} {request.url}", number)
        if fault is None:
            return None
        if fault == TIMES_OUT:
            raise ReadTimeoutError(endpoint_url=request.url)
        return refusal(service, fault, request.url, head=request.method == "HEAD")

    def _answered(self, **_: Any) -> None:
        if self.last is not None and self._mine.number >= self.last:
            os._exit(KILLED)

    @contextmanager
    def calm(self) -> Iterator[None]:
        """No fault befalls what is called now."""
        fault, self.fault = self.fault, lambda *_: None
        yield
        self.fault = fault

    def changing(self) -> list[int]:
        """The numbers of the calls that change something, of those made since the last reset."""
        assert all(CHANGING.search(call) or READING.search(call) for call in self.calls)
        return [n for n, call in enumerate(self.calls) if CHANGING.search(call)]

    def kill(self, number: int, act: Callable[[], object]) -> None:
        """Do it in a process that is killed as soon as this call was answered; before any: -1."""
        for client in self._clients.values():
            client.close()  # no connection is shared with the child
        child = os.fork()
        if child == 0:
            try:
                self.calls, self.last = [], number
                if number < 0:
                    os._exit(KILLED)
                act()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == KILLED


def refusal(service: str, fault: str, url: str, *, head: bool) -> AWSResponse:
    """An answer of AWS that refuses a request."""
    status, code, s3_status, s3_code = ANSWERS[fault]
    if service == "s3":
        body = f"<Error><Code>{s3_code}</Code><Message>refused</Message></Error>".encode()
        return AWSResponse(url, s3_status, {}, Raw(b"" if head else body))
    body = f'{{"__type": "{code}", "message": "refused"}}'.encode()
    return AWSResponse(url, status, {}, Raw(body))


class Raw(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.read()


def from_call(number: int, fault: str) -> Fault:
    """The fault befalls every call from this number on."""
    return lambda _, n: fault if n >= number else None


def only(pattern: str, fault: str, times: float = float("inf")) -> Fault:
    """The fault befalls calls that fit, so many times for each of them."""
    seen: dict[str, int] = {}

    def decide(call: str, _: int) -> str | None:
        if not re.search(pattern, call):
            return None
        seen[call] = seen.get(call, 0) + 1
        return fault if seen[call] <= times else None

    return decide


def after(pattern: str, fault: str, then: str = "") -> Fault:
    """The fault befalls every call that fits `then`, after the first that fits `pattern`."""
    seen = False

    def decide(call: str, _: int) -> str | None:
        nonlocal seen
        if seen:
            return fault if re.search(then, call) else None
        seen = bool(re.search(pattern, call))
        return None

    return decide
