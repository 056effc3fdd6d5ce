"""What the registry remembers, as plain records."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from trilho.errors import RejectedError

CHAMPION = "champion"  # the alias of the version that serves
# The alias of the version that the default branch's inputs make and that has had its turn: it was
# deployed, or failed at it. While it is that one, a merge that decides nothing deploys nothing.
MERGED = "merged"


class QuarantinedError(RejectedError):
    """The bundle is in quarantine: it may neither be published nor become a champion."""


class Source(Struct, frozen=True, kw_only=True):
    """Who did it, from which code, and why."""

    actor: str
    commit: str | None = None
    branch: str | None = None
    run_url: str | None = None
    reason: str | None = None
    approved_by: list[str] | UnsetType = UNSET  # who let the deployment go on

    @classmethod
    def current(cls, reason: str | None = None) -> Source:
        """Return who runs this: the GitHub actor and run, or the local user and git checkout."""
        env = os.environ
        run_url = None
        if env.get("GITHUB_REPOSITORY") and env.get("GITHUB_RUN_ID"):
            server = env.get("GITHUB_SERVER_URL") or "https://github.com"
            run_url = f"{server}/{env['GITHUB_REPOSITORY']}/actions/runs/{env['GITHUB_RUN_ID']}"
        return cls(
            actor=env.get("GITHUB_ACTOR") or _user(),
            commit=_head_commit() or env.get("GITHUB_SHA") or _git("rev-parse", "--verify", "HEAD"),
            # on a pull request GITHUB_REF_NAME is "12/merge", GITHUB_HEAD_REF the branch
            branch=env.get("GITHUB_HEAD_REF")
            or env.get("GITHUB_REF_NAME")
            or _git("branch", "--show-current"),
            run_url=run_url,
            reason=reason,
        )


class Candidate(Struct, frozen=True, kw_only=True):
    """The bundle that was trained from a fingerprint, and what the gate said of it."""

    fingerprint: str
    digest: str
    verdict: str
    champion: str | None = None  # digest of the champion it was compared with
    created_at: str
    source: Source
    run: str | None = None
    verdict_document: dict[str, Any] = {}
    comparison: dict[str, Any] | None = None


class Version(Struct, frozen=True, kw_only=True):
    """A published bundle, by number."""

    number: int
    digest: str
    fingerprint: str
    verdict: str
    metrics: dict[str, float | None]
    created_at: str
    source: Source


class Alias(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name that points at a version."""

    name: str
    version: int
    digest: str
    moved_at: str
    source: Source
    reason: str | None = None
    from_version: int | None = None
    etag: str | None = None  # of the stored object, not part of it: what a move compares


class Event(Struct, frozen=True, kw_only=True):
    """One line of the history."""

    at: str
    kind: str  # published | quarantined; of the champion: promoted | rolled-back; else: moved
    source: Source
    alias: str | None = None
    from_version: int | None = None
    to_version: int | None = None
    digest: str | None = None
    reason: str | None = None


class Quarantined(Struct, frozen=True, kw_only=True):
    """A bundle that may not be deployed any more, and why."""

    digest: str
    reason: str
    at: str
    source: Source


class RunRecord(Struct, frozen=True, kw_only=True):
    """One training run; holds what varies by itself and so stands in no bundle."""

    id: str
    name: str
    fingerprint: str
    digest: str | None = None
    started_at: str
    seconds: float
    source: Source
    dataset: dict[str, Any]  # path, digest, rows
    parameters: dict[str, Any]
    metrics: dict[str, float | None]
    measurements: dict[str, Any] | None = None  # evaluation.results.Measurements
    environment: dict[str, str]
    search: list[dict[str, Any]] | None = None
    status: str


def now() -> str:
    """Return the time in UTC as ISO 8601 with microseconds: text order is time order."""
    return stamp(datetime.now(UTC))


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def _head_commit() -> str | None:
    """The commit that a pull request proposes.

    GITHUB_SHA is there a trial merge of it, which nobody can check out later.
    """
    if os.environ.get("GITHUB_EVENT_NAME") != "pull_request":
        return None
    try:
        with open(os.environ["GITHUB_EVENT_PATH"], "rb") as file:
            return msgspec.json.decode(file.read(), type=_Proposed).pull_request.head.sha
    except (KeyError, OSError, msgspec.MsgspecError):
        return None


class _Head(Struct):
    sha: str


class _PullRequest(Struct):
    head: _Head


class _Proposed(Struct):
    """The event that a pull request starts a run with."""

    pull_request: _PullRequest


def _git(*arguments: str) -> str | None:
    """What git says of the working folder, or None where there is no git or no checkout."""
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
