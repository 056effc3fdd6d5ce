"""An issue that is opened once; what happens again is added to it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from trilho.github.api import Api, ApiError
from trilho.github.comment import identity

NEEDS = "issues: write"
MOST_PAGES = 10  # of a hundred open issues, the newest first
ATTEMPTS = 3


@dataclass(frozen=True)
class Opened:
    """Where the issue is, and whether it was opened now."""

    url: str
    new: bool


def marker(key: str) -> str:
    """Return the hidden first line of the issue about `key`; see `comment.label`."""
    return f"<!-- trilho issue {key} -->"


def open_once(api: Api, key: str, title: str, body: str, *, again: bool = True) -> Opened:
    """Open an issue; where ours about `key` is open, add `body` to that one if `again`.

    Raises
    ------
    ApiError
        GitHub refused, or did not answer.
    """
    me, attempts = identity(api), ATTEMPTS
    if (found := _find(api, key, me)) is not None:
        if again:
            comments = f"issues/{found['number']}/comments"
            api.request("POST", comments, body={"body": body}, needs=NEEDS)
        return Opened(str(found["html_url"]), new=False)
    content = {"title": title, "body": f"{marker(key)}\n\n{body}"}
    while True:
        try:
            made = api.request("POST", "issues", body=content, needs=NEEDS)
            return Opened(str(made["html_url"]), new=True)
        except ApiError as error:
            if not error.uncertain:
                raise
            time.sleep(api.pause)
            if (found := _find(api, key, me)) is not None:  # it came through all the same
                return Opened(str(found["html_url"]), new=True)
            attempts -= 1
            if not attempts:
                raise


def _find(api: Api, key: str, me: str) -> dict[str, Any] | None:
    """Our open issue about `key`; one that somebody else opened is not ours, marker or not."""
    newest = {"state": "open", "sort": "created", "direction": "desc"}
    for item in api.pages("issues", newest, needs=NEEDS, most=MOST_PAGES):
        author = (item.get("user") or {}).get("login")
        first = str(item.get("body") or "").partition("\n")[0].strip()
        if first == marker(key) and author == me and "pull_request" not in item:
            return dict(item)
    return None
