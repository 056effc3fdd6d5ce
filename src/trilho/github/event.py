"""What started the workflow: the pull request, or the run of another workflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from trilho.errors import UsageError

Sha = Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")]
Number = Annotated[int, Meta(ge=1)]


class Owner(Struct, frozen=True):
    login: str


class Repository(Struct, frozen=True):
    full_name: str
    owner: Owner


class Head(Struct, frozen=True):
    sha: Sha
    repo: Repository | None = None  # None: the fork was deleted


class PullRequest(Struct, frozen=True):
    """The pull request of an event."""

    number: Number
    head: Head

    @property
    def from_fork(self) -> bool:
        """Whether its code is that of another repository, so that its run may write nothing."""
        here = os.environ.get("GITHUB_REPOSITORY", "")
        return self.head.repo is None or self.head.repo.full_name.lower() != here.lower()


class WorkflowRun(Struct, frozen=True):
    """The run that a `workflow_run` event tells of; GitHub wrote it, not the run's code."""

    event: str
    head_branch: str
    head_sha: Sha
    head_repository: Repository
    html_url: str


class Event(Struct, frozen=True):
    pull_request: PullRequest | None = None
    workflow_run: WorkflowRun | None = None


def current() -> Event:
    """Return the event that GITHUB_EVENT_PATH holds; an empty one outside of Actions.

    Raises
    ------
    UsageError
        The file cannot be read as an event.
    """
    path = os.environ.get("GITHUB_EVENT_PATH")
    if not path:
        return Event()
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Event)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"GITHUB_EVENT_PATH ({path}) cannot be read as an event: {error}."
        ) from None
