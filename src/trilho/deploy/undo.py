"""What follows a deployment that failed: the revision before again, and who is to blame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trilho.config import Deploy
from trilho.deploy.ecs import Progress, Service
from trilho.deploy.revision import Revision
from trilho.deploy.smoke import SmokeError
from trilho.deploy.watch import SupersededError, watch
from trilho.errors import ConflictError, DeploymentError, TrilhoError, UsageError
from trilho.registry import CHAMPION, Alias, Registry, Source, Version


class VersionFailedError(DeploymentError):
    """The version itself did not start or answer as it must."""


@dataclass(frozen=True)
class After:
    """What became of the service."""

    said: str  # for the end of the message
    known: bool = True  # False: it may run the old revision or the new one
    taken_over: bool = False  # by somebody else's deployment


def restore(
    ecs: Service,
    wanted: Revision,
    before: Revision | None,
    settings: Deploy,
    tell: Progress,
    poll: float,
) -> After:
    """Bring the revision before back."""
    if before is None:
        left = f" There is no earlier revision to go back to: {wanted.name} is left in the service."
        return After(left)
    try:
        service = ecs.describe()
        now = service["taskDefinition"]
        if now not in (wanted.arn, before.arn):
            left = f" The service is left at {now.rsplit('/', 1)[-1]}, which is not ours."
            return After(left, taken_over=True)
        tell(f"going back to {before.name}")
        if now != before.arn:
            ecs.update(before.arn, service, at_once=True)
        watch(
            ecs,
            before.arn,
            service,
            timeout=settings.timeout_minutes * 60,
            poll=poll,
            progress=tell,
        )
    except TrilhoError as error:
        return After(
            f" GOING BACK TO {before.name} FAILED AS WELL: {error.message.rstrip('.')}. "
            f"The service may run {before.name} or {wanted.name}. Run this again when the cause is "
            "gone: it takes over from there.",
            known=False,
        )
    return After(f" {before.name} serves again.")


def blames_version(error: TrilhoError) -> bool:
    """Whether a failure says something about the version, not about who or what is around it."""
    if isinstance(error, SmokeError):
        return error.answered
    return isinstance(error, DeploymentError) and not isinstance(error, SupersededError)


def quarantine(
    registry: Registry,
    version: Version,
    error: TrilhoError,
    champion: Alias | None,
    source: Source,
    settle: Callable[[], None],
) -> str:
    """Bar a version that failed; return the sentence that says so."""
    if champion is not None and champion.digest == version.digest:
        return ""  # it served well before: the fault is not in the bundle
    try:
        settle()  # first, because no alias moves to what is in quarantine
        registry.quarantine(version.digest, error.message, source)
    except TrilhoError as trouble:
        return f" Version {version.number} could not be quarantined: {trouble.message}"
    return f" Version {version.number} is quarantined."


def failure(
    error: TrilhoError, ended: str, *, known: bool = True, blamed: bool = False
) -> TrilhoError:
    """The error with its outcome, by its own exit code where AWS is to blame.

    Where it is not `known` what serves, it is a failed deployment even if the cause was the
    caller's, such as credentials that expired on the way. `blamed`: the version is at fault.
    """
    message = error.message.rstrip() + ended
    if isinstance(error, ConflictError):
        message = f"The {CHAMPION} alias was moved by somebody else: {message}"
    failed: tuple[type[TrilhoError], ...] = (ConflictError, SmokeError)
    kind = type(error)
    if blamed:
        kind = VersionFailedError
    elif isinstance(error, failed if known else (*failed, UsageError)):
        kind = DeploymentError
    return kind(message, hint=error.hint)
