"""Who approved a deployment, as GitHub knows it."""

from __future__ import annotations

import os

from trilho.github.api import Api


def approvers() -> list[str]:
    """Return who approved this run's deployment; none outside of GitHub Actions.

    Raises
    ------
    ApiError
        GitHub does not say.
    UsageError
        There is no token to ask with.
    """
    run = os.environ.get("GITHUB_RUN_ID", "")
    if not run.isdecimal():
        return []
    answer = Api.current().get(f"actions/runs/{run}/approvals", needs="actions: read")
    if not isinstance(answer, list):
        return []
    return sorted({review["user"]["login"] for review in answer if review["state"] == "approved"})
