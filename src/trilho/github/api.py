"""GitHub's REST API for one repository: bounded retries, errors that name the permission."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
)

from trilho import __version__
from trilho.errors import UnavailableError, UsageError

ATTEMPTS = 4
MOST_SECONDS = 120.0  # for one request with its retries; a last try may begin before
LONGEST_WAIT = 60.0  # seconds; when GitHub asks for more, the caller is told instead
PER_PAGE = 100  # the most that GitHub gives
MOST_PAGES = 100
QUOTED = 200  # characters of GitHub's own words in a message


class ApiError(UnavailableError):
    """GitHub refused a request, or did not answer it.

    Parameters
    ----------
    status
        The HTTP status; 0 when no answer came.
    again
        Seconds to wait before trying again; None when trying again is of no use, or when the
        request may have been carried out and would be carried out twice.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, status: int = 0, again: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.again = again

    @property
    def uncertain(self) -> bool:
        """Whether GitHub may have done it all the same."""
        return self.status == 0 or self.status >= 500


class Api:
    """One repository, by one token.

    Parameters
    ----------
    url
        Root of the REST API, such as `https://api.github.com`.
    repository
        `OWNER/NAME`.
    token
        What signs the requests; in no message and in no `repr`.
    """

    pause = 1.0  # seconds before the first retry; each further one waits twice as long

    def __init__(self, url: str, repository: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.repository = repository
        self.token = token
        self._pool = _pool(self.url)

    @classmethod
    def current(cls) -> Api:
        """Return the API as this step's environment names it.

        Raises
        ------
        UsageError
            GITHUB_TOKEN or GITHUB_REPOSITORY is not set.
        """
        env = os.environ
        if not (token := env.get("GITHUB_TOKEN", "").strip()):
            raise UsageError(
                "GITHUB_TOKEN is not set, and without it GitHub lets nobody write.",
                hint="Give the step `env: GITHUB_TOKEN: ${{ github.token }}`; "
                "the actions do so by their input `token`.",
            )
        if not (repository := env.get("GITHUB_REPOSITORY")):
            raise UsageError(
                "GITHUB_REPOSITORY is not set, so it is not clear which repository is meant.",
                hint="On GitHub Actions it is always set; elsewhere set it to OWNER/NAME.",
            )
        return cls(env.get("GITHUB_API_URL") or "https://api.github.com", repository, token)

    def get(self, path: str, query: Mapping[str, str] | None = None, *, needs: str = "") -> Any:
        """Read something; `path` as in `request`."""
        return self.request("GET", path, query=query, needs=needs)

    def pages(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        needs: str = "",
        most: int = MOST_PAGES,
    ) -> Iterator[dict[str, Any]]:
        """Read a list, page after page, at most `most` pages of 100.

        Pages are asked for by number: no address that an answer names gets to see the token.
        """
        for page in range(1, most + 1):
            asked = {**(query or {}), "per_page": str(PER_PAGE), "page": str(page)}
            answer, headers = self._send("GET", path, asked, None, needs)
            if not isinstance(answer, list) or not all(isinstance(i, dict) for i in answer):
                raise ApiError(f"GitHub answered {path} with something that is not a list.")
            yield from answer
            if 'rel="next"' not in headers.get("link", ""):
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        needs: str = "",
    ) -> Any:
        """Send a request, again where that is safe and of use, and return the answer's JSON.

        A POST that may have been carried out is not sent again.

        Parameters
        ----------
        method, query, body
            As HTTP has them.
        path
            Relative to the repository (`issues/7/comments`); with a `/` in front, to the API.
        needs
            The permission that it takes, as in `pull-requests: write`, for the hint.

        Raises
        ------
        ApiError
            GitHub refused, or did not answer.
        """
        return self._send(method, path, query, body, needs)[0]

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        needs: str,
    ) -> tuple[Any, Mapping[str, str]]:
        # an Enterprise server has REST at /api/v3 and GraphQL at /api/graphql
        root = self.url.removesuffix("/v3") if path == "/graphql" else self.url
        url = root + (path if path.startswith("/") else f"/repos/{self.repository}/{path}")
        if query:
            url += "?" + urlencode(query)
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(MOST_SECONDS),
            wait=self._wait,
            retry=retry_if_exception(lambda e: isinstance(e, ApiError) and e.again is not None),
            reraise=True,
        )
        return retrying(self._once, method, url, body, needs)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.again if isinstance(error, ApiError) and error.again else 0.0
        return max(asked, float(self.pause * 2 ** (state.attempt_number - 1)))

    def _once(
        self, method: str, url: str, body: Mapping[str, Any] | None, needs: str
    ) -> tuple[Any, Mapping[str, str]]:
        what = f"{method} {urlsplit(url).path}"
        repeatable = method != "POST"
        try:
            answer = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers={
                    "Accept": "application/vnd.github+json",
                    "Authorization": f"Bearer {self.token}",
                    "Content-Type": "application/json",
                    "User-Agent": f"trilho/{__version__}",
                    "X-GitHub-Api-Version": "2022-11-28",
                },
            )
        except urllib3.exceptions.HTTPError as error:
            unsent = isinstance(
                error,
                urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError,
            )
            raise ApiError(
                f"GitHub does not answer ({what}): {self._quote(_words(error))}.",
                hint="Check the network, and GITHUB_API_URL if you set it.",
                again=0.0 if unsent or repeatable else None,
            ) from None
        if answer.status == 204:
            return None, answer.headers
        try:
            said = json.loads(answer.data)
        except ValueError:
            said = None
        if 200 <= answer.status < 300 and said is not None:
            return said, answer.headers
        raise self._refusal(what, answer, said, needs, repeatable)

    def _refusal(
        self,
        what: str,
        answer: urllib3.BaseHTTPResponse,
        said: Any,
        needs: str,
        repeatable: bool,
    ) -> ApiError:
        status = answer.status
        words = self._quote(_message(said) or answer.reason or "not JSON")
        if (wait := _limited(answer, words)) is not None:
            return ApiError(
                f"GitHub limits the rate of requests ({what}): {words}",
                hint=f"It asks to wait {wait:.0f} s; run the job again later.",
                status=status,
                again=wait if wait <= LONGEST_WAIT else None,
            )
        message = f"GitHub answered {what} with {status}: {words}"
        if status >= 500:
            return ApiError(
                message,
                hint="Run the job again later; https://www.githubstatus.com shows known trouble.",
                status=status,
                again=0.0 if repeatable else None,
            )
        hint = None
        if status == 401:
            hint = "The token in GITHUB_TOKEN is not valid, or no longer."
        elif status in (403, 404) and needs:
            hint = (
                f"Add `{needs}` to the job's permissions; the token of a pull request from a fork "
                "can never write."
            )
        return ApiError(message, hint=hint, status=status)

    def _quote(self, text: str) -> str:
        """GitHub's or the network's words on one line, short, and without the token."""
        text = " ".join(text.replace(self.token, "***").split())
        return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"


def _limited(answer: urllib3.BaseHTTPResponse, words: str) -> float | None:
    """Seconds to wait when a rate limit is the reason of a refusal, else None."""
    if answer.status not in (403, 429):
        return None
    headers = answer.headers
    if (after := _number(headers.get("retry-after"))) is not None:
        return after
    if headers.get("x-ratelimit-remaining") == "0":
        reset = _number(headers.get("x-ratelimit-reset"))
        return LONGEST_WAIT if reset is None else max(0.0, reset - time.time()) + 1
    # GitHub's advice for a secondary limit that names no time is a minute
    return LONGEST_WAIT if answer.status == 429 or "rate limit" in words.lower() else None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def _message(said: Any) -> str:
    """What GitHub's error says, with the fields that it names."""
    if not isinstance(said, dict):
        return ""
    words = [str(said.get("message") or "")]
    for error in said.get("errors") or []:
        words.append(str(error.get("message") or error) if isinstance(error, dict) else str(error))
    return "; ".join(word for word in words if word)


def _words(error: Exception) -> str:
    """urllib3's words without the objects' addresses."""
    return str(error).rpartition(">: ")[2] or type(error).__name__


def _pool(url: str) -> urllib3.PoolManager:
    """Connections to `url`, through the proxy that the environment names."""
    settings: dict[str, Any] = {
        "retries": False,  # nor redirects: a token is for the address that it was meant for
        "timeout": urllib3.Timeout(connect=10, read=30),
    }
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)
