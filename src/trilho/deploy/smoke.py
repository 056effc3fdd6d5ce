"""Smoke test: does the service answer with this model, rightly and in time?"""

from __future__ import annotations

import json
import math
import os
import statistics
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import urllib3
from msgspec import Struct
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from trilho.bundle import Golden
from trilho.errors import DeploymentError, UsageError

# A request that takes longer has failed, whatever the bound on the median is.
REQUEST_SECONDS = 10.0


class SmokeResult(Struct, frozen=True, kw_only=True):
    """What the service answered to the golden rows."""

    url: str
    digest: str
    rows: int
    largest_difference: float
    tolerance: float
    median_milliseconds: float
    slowest_milliseconds: float
    waited_seconds: float  # until the service reported the digest


class SmokeError(DeploymentError):
    """The service does not answer as the bundle says it must.

    `answered` is False when nothing at the URL spoke HTTP: that says little about the model.
    """

    def __init__(self, message: str, *, answered: bool = True, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.answered = answered


class _NotYetError(Exception):
    """The service does not report the digest so far."""


def smoke(
    url: str,
    golden: Golden,
    digest: str,
    *,
    timeout: float = 60,
    max_milliseconds: float = 1000,
    poll: float = 1,
) -> SmokeResult:
    """Send the golden rows to a service and compare its answers with the expected predictions.

    Parameters
    ----------
    url
        Base URL of the service; `/model` and `/invocations` are asked, with the key in
        TRILHO_API_KEY if it is set.
    golden
        The bundle's rows with their predictions.
    digest
        The digest that the service must report.
    timeout
        Seconds until it must report it.
    max_milliseconds
        Bound on the median time of a one-row request.
    poll
        Seconds between two looks while waiting.

    Raises
    ------
    UsageError
        The URL is not one.
    SmokeError
        The reason: another digest, an HTTP error, another number, too slow.
    """
    base = checked(url)
    pool = urllib3.PoolManager(
        headers=_key(), retries=False, timeout=urllib3.Timeout(connect=5, read=REQUEST_SECONDS)
    )
    with pool:
        started = time.monotonic()
        _wait(pool, base, digest, timeout, poll)
        waited = time.monotonic() - started
        # all rows at once, then one by one: services may take another way for many rows
        answers = _predict(pool, base, golden.rows, digest)
        largest = _compare(answers, golden.expected, golden.tolerance, base)
        milliseconds: list[float] = []
        for row, expected in zip(golden.rows, golden.expected, strict=True):
            begun = time.perf_counter()
            answer = _predict(pool, base, [row], digest)
            milliseconds.append((time.perf_counter() - begun) * 1000)
            largest = max(largest, _compare(answer, [expected], golden.tolerance, base))
            slow = sum(m > max_milliseconds for m in milliseconds)
            if slow > len(golden.rows) / 2:  # the median is settled, whatever the others take
                raise SmokeError(
                    f"{base} is too slow: {slow} of {len(golden.rows)} one-row requests took more "
                    f"than {max_milliseconds:g} ms, the fastest of them "
                    f"{min(m for m in milliseconds if m > max_milliseconds):.0f} ms.",
                    hint="Give the task more CPU, or raise deploy.smoke_max_milliseconds.",
                )
    return SmokeResult(
        url=base,
        digest=digest,
        rows=len(golden.rows),
        largest_difference=largest,
        tolerance=golden.tolerance,
        median_milliseconds=statistics.median(milliseconds),
        slowest_milliseconds=max(milliseconds),
        waited_seconds=waited,
    )


def _key() -> dict[str, str]:
    """The header that opens a service with an API key: TRILHO_API_KEY, of several the first."""
    key = os.environ.get("TRILHO_API_KEY", "").split(",")[0].strip()
    return {"x-api-key": key} if key else {}


def checked(url: str | None) -> str:
    """Return the base URL without its last slash.

    Raises
    ------
    UsageError
        None is set, or it is not an http(s) URL.
    """
    if not url:
        raise UsageError(
            "deploy.url is not set: the smoke test needs to know where the service answers.",
            hint="Set deploy.url in pipeline.yaml, such as https://model.example.com.",
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"deploy.url must be an http or https URL, not {url!r}.")
    return url.rstrip("/")


def _wait(pool: urllib3.PoolManager, base: str, digest: str, timeout: float, poll: float) -> None:
    """Wait until the service reports the digest."""

    answered = False

    def ask() -> None:
        nonlocal answered
        try:
            answer = _ask(pool, "GET", f"{base}/model")
        except urllib3.exceptions.HTTPError as error:
            raise _NotYetError(_reason(error)) from None
        answered = True
        if answer.status != 200:
            raise _NotYetError(f"GET /model answers {answer.status}{_quote(answer)}")
        found = _json(answer).get("digest")
        if found != digest:
            raise _NotYetError(f"it serves {found or 'a model without digest'}")

    try:
        Retrying(
            stop=stop_after_delay(timeout),
            wait=wait_fixed(poll),
            retry=retry_if_exception_type(_NotYetError),
        )(ask)
    except RetryError as error:
        raise SmokeError(
            f"{base} does not serve {digest} after {timeout:.0f} seconds: "
            f"{error.last_attempt.exception()}.",
            answered=answered,
            hint=None if answered else "Check deploy.url, and that this machine may reach it.",
        ) from None


def _predict(
    pool: urllib3.PoolManager, base: str, rows: list[dict[str, Any]], digest: str
) -> list[Any]:
    """Ask for the predictions of some rows; every failure is final."""
    try:
        answer = _ask(
            pool,
            "POST",
            f"{base}/invocations",
            body=json.dumps(rows),
            headers={**pool.headers, "Content-Type": "application/json"},
        )
    except urllib3.exceptions.HTTPError as error:
        raise SmokeError(f"POST {base}/invocations failed: {_reason(error)}.") from None
    if answer.status != 200:
        raise SmokeError(f"POST {base}/invocations answers {answer.status}{_quote(answer)}.")
    body = _json(answer)
    found = body.get("model", {}).get("digest", digest) if isinstance(body, dict) else None
    if found != digest:
        raise SmokeError(f"{base} answers with {found}, not with {digest}.")
    predictions = body.get("predictions")
    if not isinstance(predictions, list) or len(predictions) != len(rows):
        raise SmokeError(
            f"POST {base}/invocations does not answer with {len(rows)} predictions{_quote(answer)}."
        )
    return predictions


def _ask(pool: urllib3.PoolManager, method: str, url: str, **more: Any) -> urllib3.BaseHTTPResponse:
    """Make a request that ends in time, however slowly its answer trickles in.

    A socket's timeout is about each piece of an answer, and a lookup of a name has none: so the
    request runs beside, and is left to itself when it takes too long.
    """
    answers: list[urllib3.BaseHTTPResponse] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(pool.request(method, url, **more))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(REQUEST_SECONDS)
    if answers:
        return answers[0]
    if errors:
        raise errors[0]
    raise urllib3.exceptions.HTTPError(
        f"the answer is not complete after {REQUEST_SECONDS:g} seconds"
    )


def _compare(answers: list[Any], expected: list[Any], tolerance: float, base: str) -> float:
    """Return the largest difference; raise when one is above the tolerance."""
    largest = 0.0
    for row, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
        difference = _difference(answer, wanted)
        if difference > tolerance:
            raise SmokeError(
                f"{base} answers wrong numbers: golden row {row} gives {answer!r}, "
                f"expected {wanted!r} within {tolerance:g}.",
                hint="The service's environment differs from the one that trained the model.",
            )
        largest = max(largest, difference)
    return largest


def _difference(answer: Any, wanted: Any) -> float:
    if isinstance(wanted, list):
        if not isinstance(answer, list) or len(answer) != len(wanted):
            return math.inf
        return max((_difference(a, w) for a, w in zip(answer, wanted, strict=True)), default=0.0)
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return math.inf
    difference = abs(float(answer) - float(wanted))
    return math.inf if math.isnan(difference) else difference


def _json(answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _quote(answer: urllib3.BaseHTTPResponse) -> str:
    """The beginning of an answer's body, for a message."""
    text = " ".join(answer.data.decode("utf-8", "replace").split())
    return f": {text[:200]}" if text else ""


def _reason(error: Exception) -> str:
    """urllib3's words without the objects' addresses."""
    text = str(error)
    return text.split(": ", 1)[1] if "object at 0x" in text and ": " in text else text
