"""Which pull request a fork's run was for, by what GitHub says of the run and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from trilho.errors import UsageError
from trilho.github import event
from trilho.github.api import Api, ApiError

NEEDS = "pull-requests: write"


class _Head(event.Head, frozen=True, kw_only=True):
    ref: str


class _Pull(Struct, frozen=True):
    number: event.Number
    head: _Head


@dataclass(frozen=True)
class Found:
    """The pull request, or None and the reason."""

    number: int | None
    why: str = ""


def run() -> event.WorkflowRun:
    """Return the run that this workflow follows.

    Raises
    ------
    UsageError
        There is none, or it is not a pull request's from a fork.
    """
    found = event.current().workflow_run
    if found is None or found.event != "pull_request":
        raise UsageError(
            "--numbers is for a workflow that follows a pull request's run, and this is none.",
            hint="Start it `on: workflow_run`, as report-fork.yml does.",
        )
    return found


def pull_request(api: Api, of: event.WorkflowRun) -> Found:
    """Find the open pull request whose head is the run's, by repository, branch and commit.

    Raises
    ------
    ApiError
        GitHub refused, or did not answer.
    """
    theirs = of.head_repository
    where = f"{theirs.owner.login}:{of.head_branch}"
    asked = {"head": where, "state": "open"}
    moved = None
    for item in api.pages("pulls", asked, needs=NEEDS, most=3):
        pull = _read(item)
        same = pull.head.repo is not None and pull.head.repo.full_name == theirs.full_name
        if not same or pull.head.ref != of.head_branch:
            continue
        if pull.head.sha == of.head_sha:
            return Found(pull.number)
        moved = pull
    if moved is not None:
        return Found(
            None,
            f"The pull request #{moved.number} has moved on to {moved.head.sha[:12]}, and this run "
            f"was of {of.head_sha[:12]}: the newer run reports.",
        )
    return Found(None, f"No open pull request comes from {where}.")


def _read(item: Any) -> _Pull:
    try:
        return msgspec.convert(item, _Pull)
    except msgspec.ValidationError as error:
        raise ApiError(f"GitHub answered with a pull request that is none: {error}.") from None
