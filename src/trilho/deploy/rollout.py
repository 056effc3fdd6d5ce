"""Deploy a version: ECS first, then the smoke test, and the champion alias last.

Every step can be repeated, and a rerun takes over where a killed run stopped: what ECS runs and
what the alias names are read anew each time, nothing else is remembered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from msgspec import Struct

from trilho.bundle import Golden
from trilho.config import Deploy
from trilho.deploy.ecs import Progress, Service
from trilho.deploy.revision import Model, Revision
from trilho.deploy.smoke import SmokeError, SmokeResult, checked, smoke
from trilho.deploy.undo import blames_version, failure, quarantine, restore
from trilho.deploy.watch import ending, given_up, watch
from trilho.errors import ConflictError, IntegrityError, TrilhoError
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
    passed_over: list[str] = []  # a rollback's nearer targets, and why they do not serve


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
        not touched. A version that failed by its own fault is quarantined.
    UnavailableError
        AWS is to blame; the message ends with what serves now, and a rerun takes over from there.
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
    proven: bool = False,
    progress: Progress,
    poll: float,
) -> Deployment:
    """Bring a version into service and call `promote` last; on failure restore what ran before.

    `settle` is called when it is clear what became of the version: it is the champion, or it is
    about to be quarantined. A version that is `proven` was champion before: the revision that
    served it then is taken if ECS still has it, and should it fail now, it is not quarantined.
    """
    started = time.monotonic()
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        progress(line)

    refuse_quarantined(registry, version)
    golden = read_golden(registry, version.digest)
    url = checked(settings.url)
    ecs = Service(
        settings.cluster, settings.service, settings.container, strategy=settings.strategy
    )
    service = ecs.describe()
    ecs.check(service, at_once=proven)
    model = Model(uri=registry_url, digest=version.digest, version=version.number)
    running = ecs.revision(service["taskDefinition"])

    if running.serves(model, image) and not given_up(service):
        tell(f"{running.name} already names version {version.number}")
        before = _before(ecs, service, running, champion)
        wanted, changed = running, False
    else:
        before = running
        try:
            check_stored(registry, version)
            wanted = (proven and ecs.find(running.family, version.digest)) or ecs.register(
                running, model, image
            )
        except TrilhoError as error:
            raise failure(error, f" Nothing was changed: {running.name} serves on.") from None
        changed = True
    try:
        if changed:
            tell(f"{wanted.name} takes over from {running.name}: version {version.number}")
            ecs.update(wanted.arn, service, at_once=proven)
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
        trouble = _promote(registry, version, champion, source, promote)
    except TrilhoError as error:
        # by the time that the old revision is back, ECS may have forgotten how the new one ended
        ended = ending(ecs, wanted.arn) if isinstance(error, SmokeError) else ""
        crashed = bool(ended)
        if isinstance(error, ConflictError):  # service and alias are to name the same version
            before = _serving_champion(registry, ecs, running.family) or before
        after = restore(ecs, wanted, before, settings, tell, poll)
        ended += after.said
        blamed = not after.taken_over and (crashed or blames_version(error))
        if blamed and not proven:
            ended += quarantine(registry, version, error, champion, source, settle)
        raise failure(error, ended, known=after.known, blamed=blamed) from None
    if promoted:
        tell(f"{CHAMPION} is version {version.number}")
    try:
        if trouble is not None:
            raise trouble
        settle()  # not above: a failure would take a version out of service that is the champion
        records = [_record(registry, revision) for revision in (before or running, wanted)]
    except TrilhoError as error:
        done = f" Version {version.number} serves and is the {CHAMPION} all the same"
        raise failure(error, f"{done}: run this again, to finish its records.") from None
    return Deployment(
        cluster=settings.cluster,
        service=settings.service,
        before=records[0],
        after=records[1],
        changed=changed,
        promoted=promoted,
        smoke=result,
        seconds=time.monotonic() - started,
        events=lines,
    )


def refuse_quarantined(registry: Registry, version: Version) -> None:
    """Raise QuarantinedError for a version that failed before."""
    if (entry := registry.quarantined(version.digest)) is not None:
        with contextlib.suppress(TrilhoError):
            # a run that was killed in between may not have told the history
            registry.quarantine(version.digest, entry.reason, entry.source)
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


def check_stored(registry: Registry, version: Version) -> None:
    """Fetch and verify all of a version's bundle.

    A task would find it damaged as well, but then the version would have failed, for good, although
    its bundle may be put right.

    Raises
    ------
    IntegrityError
        Naming the file that is missing or changed.
    """
    with TemporaryDirectory(prefix="trilho-deploy-") as temporary:
        registry.fetch_bundle(version.digest, Path(temporary) / "bundle")


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


def _promote(
    registry: Registry,
    version: Version,
    champion: Alias | None,
    source: Source,
    promote: Callable[[], None],
) -> TrilhoError | None:
    """Make a version that serves the champion; return what went wrong after the alias had moved."""
    if champion is not None and champion.digest == version.digest:
        # it is; but the run that made it so may have been killed before it told the history
        registry.move_alias(CHAMPION, champion.version, expected=champion, source=source)
        return None
    try:
        promote()
    except TrilhoError as error:
        try:
            now = registry.alias(CHAMPION)
        except TrilhoError:
            unknown = f" Whether the {CHAMPION} alias was moved is not known."
            raise type(error)(error.message + unknown, hint=error.hint) from None
        if now is None or now.digest != version.digest:
            raise
        # a conflict: somebody else made it the champion, which is as well
        return None if isinstance(error, ConflictError) else error
    return None


def _serving_champion(registry: Registry, ecs: Service, family: str) -> Revision | None:
    """The revision that serves what is the champion by now, if ECS has one."""
    try:
        champion = registry.alias(CHAMPION)
        return ecs.find(family, champion.digest) if champion else None
    except TrilhoError:
        return None


def _record(registry: Registry, revision: Revision) -> Running:
    digest = revision.digest
    version = registry.version_of(digest) if digest else None
    return Running(
        task_definition=revision.arn,
        digest=digest,
        version=version.number if version else None,
    )
