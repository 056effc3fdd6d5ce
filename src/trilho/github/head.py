"""Whether a branch has moved on since this run was started."""

from __future__ import annotations

import os
from urllib.parse import quote

from trilho.github.api import Api


def newer_commit() -> str | None:
    """Return the head of the branch whose push started this run, if that is another commit by now.

    None when it is still this run's commit, and where no push started this run.

    Raises
    ------
    ApiError
        GitHub does not say.
    UsageError
        There is no token to ask with.
    """
    env = os.environ
    branch, commit = env.get("GITHUB_REF_NAME"), env.get("GITHUB_SHA")
    if env.get("GITHUB_EVENT_NAME") != "push" or not branch or not commit:
        return None
    answer = Api.current().get(f"commits/{quote(branch, safe='/')}", needs="contents: read")
    head = answer.get("sha") if isinstance(answer, dict) else None
    return head if isinstance(head, str) and head and head != commit else None
