"""Deploy a version: ECS first, then the smoke test, and the champion alias last.

Every step can be repeated, and a rerun takes over where a killed run stopped: what ECS runs and
what the alias names are read anew each time, nothing else is remembered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from trilho.bundle import Golden
from trilho.config import Deploy
from trilho.deploy.ecs import Progress, Service
from trilho.deploy.revision import Model, Revision
from trilho.deploy.smoke import SmokeError, SmokeResult, checked, smoke
from trilho.deploy.watch import SupersededError, ending, given_up, watch
from trilho.errors import ConflictError, DeploymentError, IntegrityError, TrilhoError
from trilho.registry import CHAMPION, MERGED, Alias, QuarantinedError, Registry, Source, Version

POLL_SECONDS = 3.0


class Running(Struct, frozen=True, kw_only=True):
    """What a service runs: a task definition, and the model in it if it names one."""

    task_definition: str
    digest: str | None
    version: int | None


class Deployment(Struct, frozen=True, kw_only=True):
    """The record of a deployment or a rollback that succeeded."""

    cluster: str
    service: str
    before: Running
    after: Running
    changed: bool  # False: the service ran this very model before
    promoted: bool  # False: the alias named this version before
    smoke: SmokeResult
    seconds: float
    events: list[str]  # the lines of progress, in order


def deploy(
    registry: Registry,
    version: int,
    settings: Deploy,
    *,
    registry_url: str,
    source: Source | None = None,
    image: str | None = None,
    merged: bool = False,
    progress: Progress = lambda _: None,
    poll: float = POLL_SECONDS,
) -> Deployment:
    """Make a version the one that serves and the champion.

    Parameters
    ----------
    registry
        Holds the version, its bundle and the alias.
    version
        The published version.
    settings
        The `deploy` section of the pipeline.
    registry_url
        The registry's root as the tasks reach it.
    source
        Who deploys, for the registry's history.
    image
        Another image for the serving container; the running one is kept when left out.
    merged
        Whether the version is what the default branch's inputs make: once it serves, or failed by
        its own fault, the alias `merged` says that it had its turn.
    progress
        Called with each line of progress.
    poll
        Seconds between two looks at ECS and at the service.

    Raises
    ------
    UsageError, QuarantinedError
        Before anything changed: no such version, one that failed before, or a service that cannot
        be deployed to.
    IntegrityError
        Before anything changed: the bundle is not whole.
    DeploymentError
        It failed; the message begins with the reason and ends with what serves now. The alias was
        not touched. A version that failed is quarantined.
    """
    chosen = registry.version(version)
    champion = registry.alias(CHAMPION)
    by = source or Source.current()

    def promote() -> None:
        registry.move_alias(
            CHAMPION,
            version,
            expected=champion,
            source=by,
            reason=f"version {version} passed its smoke test",
        )

    def settle() -> None:
        if merged:
            registry.move_alias(
                MERGED,
                version,
                expected=registry.alias(MERGED),
                source=by,
                reason=f"version {version} had its turn",
            )

    return ship(
        registry,
        chosen,
        champion,
        settings,
        registry_url=registry_url,
        source=by,
        image=image,
        promote=promote,
        settle=settle,
        progress=progress,
        poll=poll,
    )


def ship(
    registry: Registry,
    version: Version,
    champion: Alias | None,
    settings: Deploy,
    *,
    registry_url: str,
    source: Source,
    promote: Callable[[], None],
    settle: Callable[[], None] = lambda: None,
    image: str | None = None,
    reuse: bool = False,
    progress: Progress,
    poll: float,
) -> Deployment:
    """Bring a version into service and call `promote` last; on failure restore what ran before.

    `settle` is called when it is clear what became of the version: it is the champion, or it is
    about to be quarantined. `reuse` takes the revision that served the version before, if ECS still
    has it.
    """
    started = time.monotonic()
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        progress(line)

    refuse_quarantined(registry, version)
    golden = read_golden(registry, version.digest)
    url = checked(settings.url)
    ecs = Service(settings.cluster, settings.service, settings.container)
    service = ecs.describe()
    ecs.check(service)
    model = Model(uri=registry_url, digest=version.digest, version=version.number)
    running = ecs.revision(service["taskDefinition"])

    if running.serves(model, image) and not given_up(service):
        tell(f"{running.name} already names version {version.number}")
        before = _before(ecs, service, running, champion)
        wanted, changed = running, False
    else:
        before = running
        wanted = (reuse and ecs.find(running.family, version.digest)) or ecs.register(
            running, model, image
        )
        changed = True
    try:
        if changed:
            tell(f"{wanted.name} takes over from {running.name}: version {version.number}")
            ecs.update(wanted.arn, service)
        watch(
            ecs,
            wanted.arn,
            service,
            timeout=settings.timeout_minutes * 60,
            poll=poll,
            progress=tell,
            before=before.arn if before else None,
        )
        tell(f"asking {url}")
        result = smoke(
            url,
            golden,
            version.digest,
            timeout=settings.smoke_timeout_seconds,
            max_milliseconds=settings.smoke_max_milliseconds,
            poll=min(poll, 1.0),
        )
        tell(f"{result.rows} golden rows agree, {result.median_milliseconds:.1f} ms each")
        promoted = champion is None or champion.digest != version.digest
        if promoted:
            promote()
            tell(f"{CHAMPION} is version {version.number}")
    except TrilhoError as error:
        # by the time that the old revision is back, ECS may have forgotten how the new one ended
        ended = ending(ecs, wanted.arn) if isinstance(error, SmokeError) else ""
        crashed = bool(ended)
        ended += _restore(ecs, wanted, before, settings, tell, poll)
        if crashed or _blames_version(error):
            ended += _quarantine(registry, version, error, champion, source, settle)
        raise _failure(error, ended) from None
    settle()  # after the block above: it would take a version out of service that is the champion
    return Deployment(
        cluster=settings.cluster,
        service=settings.service,
        before=_record(registry, before or running),
        after=_record(registry, wanted),
        changed=changed,
        promoted=promoted,
        smoke=result,
        seconds=time.monotonic() - started,
        events=lines,
    )


def refuse_quarantined(registry: Registry, version: Version) -> None:
    """Raise QuarantinedError for a version that failed before."""
    if (entry := registry.quarantined(version.digest)) is not None:
        raise QuarantinedError(
            f"Version {version.number} is quarantined since {entry.at}: {entry.reason}",
            hint="Deploy another version, or train again.",
        )


def read_golden(registry: Registry, digest: str) -> Golden:
    """Return the golden rows of a bundle, verified against its manifest."""
    data = registry.bundle_file(digest, "golden.json")
    try:
        golden = msgspec.json.decode(data, type=Golden)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"golden.json of {digest} cannot be read: {error}.") from None
    if not golden.rows or len(golden.rows) != len(golden.expected):
        raise IntegrityError(f"golden.json of {digest} holds no rows to test with.")
    return golden


def _before(
    ecs: Service, service: dict[str, Any], running: Revision, champion: Alias | None
) -> Revision | None:
    """The revision to go back to when the service names the version already.

    A killed run left it so. The old revision may still be part of the rollout; else it is the
    latest that names the champion. None: there is nothing to go back to, or no need.
    """
    if champion is not None and champion.digest == running.digest:
        return None
    for deployment in service.get("deployments", []):
        if deployment["taskDefinition"] != running.arn and deployment["runningCount"]:
            return ecs.revision(deployment["taskDefinition"])
    if champion is None:
        return None
    return ecs.find(running.family, champion.digest)


def _restore(
    ecs: Service,
    wanted: Revision,
    before: Revision | None,
    settings: Deploy,
    tell: Progress,
    poll: float,
) -> str:
    """Bring the revision before back and say what serves now."""
    if before is None:
        return f" There is no earlier revision to go back to: {wanted.name} is left in the service."
    try:
        service = ecs.describe()
        now = service["taskDefinition"]
        if now not in (wanted.arn, before.arn):
            return f" The service is left at {now.rsplit('/', 1)[-1]}, which is not ours."
        tell(f"going back to {before.name}")
        if now != before.arn:
            ecs.update(before.arn, service)
        watch(
            ecs,
            before.arn,
            service,
            timeout=settings.timeout_minutes * 60,
            poll=poll,
            progress=tell,
        )
    except TrilhoError as error:
        return f" GOING BACK TO {before.name} FAILED AS WELL: {error.message}"
    return f" {before.name} serves again."


def _blames_version(error: TrilhoError) -> bool:
    """Whether a failure says something about the version, not about who or what is around it."""
    if isinstance(error, SmokeError):
        return error.answered
    return isinstance(error, DeploymentError) and not isinstance(error, SupersededError)


def _quarantine(
    registry: Registry,
    version: Version,
    error: TrilhoError,
    champion: Alias | None,
    source: Source,
    settle: Callable[[], None],
) -> str:
    if champion is not None and champion.digest == version.digest:
        return ""  # it served well before: the fault is not in the bundle
    try:
        settle()  # first, because no alias moves to what is in quarantine
        registry.quarantine(version.digest, error.message, source)
    except TrilhoError as trouble:
        return f" Version {version.number} could not be quarantined: {trouble.message}"
    return f" Version {version.number} is quarantined."


def _failure(error: TrilhoError, ended: str) -> TrilhoError:
    """The error with its outcome, by its own exit code where AWS is to blame."""
    message = error.message.rstrip() + ended
    if isinstance(error, ConflictError):
        message = f"The {CHAMPION} alias was moved by somebody else: {message}"
    kind = DeploymentError if isinstance(error, ConflictError | SmokeError) else type(error)
    return kind(message, hint=error.hint)


def _record(registry: Registry, revision: Revision) -> Running:
    digest = revision.digest
    version = registry.version_of(digest) if digest else None
    return Running(
        task_definition=revision.arn,
        digest=digest,
        version=version.number if version else None,
    )
