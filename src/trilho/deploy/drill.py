"""A rehearsal: a broken bundle goes to a staging service, and the way back is timed."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from trilho import bundle
from trilho.config import Deploy
from trilho.deploy import rollout
from trilho.deploy.ecs import Progress, Service
from trilho.deploy.revision import MODEL_URI, MODEL_VERSION, Revision
from trilho.deploy.smoke import SmokeError, checked, smoke
from trilho.deploy.undo import VersionFailedError
from trilho.errors import DeploymentError, UsageError
from trilho.registry import Registry, Source, Version, now, open_registry

# Where broken bundles lie, below the root of the registry that the service reads. It is a registry
# of its own, which holds no version: nothing in it can be published or promoted in the other one.
# Below `blobs/`, because that is what tasks and identities may read and write already.
GROUND = "blobs/drill"


class Drill(Struct, frozen=True, kw_only=True):
    """The record of a drill that ended well."""

    cluster: str
    service: str
    url: str
    version: str  # that served before and serves again
    digest: str
    broken: str  # digest of what was deployed
    reason: str  # why it did not stay
    recovery_seconds: float  # from the update until the old version was seen to serve again
    left: str | None  # the task definition that could not be removed
    events: list[str]


def drill(
    settings: Deploy,
    production: Deploy,
    *,
    source: Source | None = None,
    progress: Progress = lambda _: None,
    poll: float | None = None,
) -> Drill:
    """Deploy a bundle that cannot serve, and wait until what served before does again.

    Parameters
    ----------
    settings
        The staging service.
    production
        The service that must not be touched, from the pipeline.
    source, progress, poll
        As for `rollout.deploy`.

    Raises
    ------
    UsageError
        Before anything changed: it is the production service, or one that does not serve well.
    DeploymentError
        The broken version stayed for longer than it may, or was taken for a whole one.
    """
    refuse_production(settings, production)
    url = checked(settings.url)
    poll = rollout.POLL_SECONDS if poll is None else poll
    by = source or Source.current("drill")
    ecs = Service(settings.cluster, settings.service, settings.container)
    running = ecs.revision(ecs.describe()["taskDefinition"])
    uri, digest = _serves(running)
    registry = open_registry(uri)
    golden = rollout.read_golden(registry, digest)

    def answers() -> None:
        smoke(
            url,
            golden,
            digest,
            timeout=settings.smoke_timeout_seconds,
            max_milliseconds=settings.smoke_max_milliseconds,
            poll=min(poll, 1.0),
        )

    try:
        answers()
    except SmokeError as error:
        raise UsageError(
            f"The drill did not begin, because the service does not serve well: {error.message}",
            hint="Deploy a version to it first, by `trilho deploy`.",
        ) from None

    root = f"{uri.rstrip('/')}/{GROUND}"
    ground = open_registry(root)
    broken = _break(registry, digest, ground)
    told: list[tuple[float, str]] = []

    def tell(line: str) -> None:
        told.append((time.monotonic(), line))
        progress(line)

    taken = "The broken version was taken for a whole one."

    def promote() -> None:
        raise DeploymentError(taken)

    try:
        rollout.ship(
            ground,
            broken,
            None,
            settings,
            registry_url=root,
            source=by,
            promote=promote,
            progress=tell,
            poll=poll,
        )
    except VersionFailedError as error:
        # without what became of the version, which is none
        reason = error.message.partition(f" {running.name} serves again.")[0]
    left = _clean(ecs, running, broken.digest)
    if reason.startswith(taken):
        raise DeploymentError(
            f"{reason} Neither the container nor the smoke test noticed.",
            hint="Does the service's image check the golden rows? It must be built from the "
            "Dockerfile of this release.",
        )
    try:
        answers()
    except SmokeError as error:
        raise DeploymentError(
            f"The service did not recover from the drill: {error.message} Before that: {reason}",
            hint=f"Run `aws ecs update-service --cluster {settings.cluster} --service "
            f"{settings.service} --task-definition {running.name}`.",
        ) from None
    return Drill(
        cluster=settings.cluster,
        service=settings.service,
        url=url,
        version=running.environment.get(MODEL_VERSION, ""),
        digest=digest,
        broken=broken.digest,
        reason=reason,
        # the first line is told right before the update
        recovery_seconds=time.monotonic() - told[0][0],
        left=left,
        events=[line for _, line in told],
    )


def refuse_production(settings: Deploy, production: Deploy) -> None:
    """Refuse to rehearse on the service that the pipeline deploys to."""

    def place(deploy: Deploy) -> tuple[str, str]:
        return deploy.cluster.rsplit("/", 1)[-1], deploy.service.rsplit("/", 1)[-1]

    same = place(settings) == place(production)
    if same or checked(settings.url) == (production.url or "").rstrip("/"):
        what = "/".join(place(settings)) if same else settings.url
        raise UsageError(
            f"{what} is the pipeline's own service: a drill deploys what is broken.",
            hint="Name a staging service with --cluster, --service and --service-url.",
        )


def _serves(running: Revision) -> tuple[str, str]:
    """The registry and the digest that a revision names."""
    uri, digest = running.environment.get(MODEL_URI), running.digest
    if not uri or not digest:
        raise UsageError(
            f"{running.name} names no model, so there is nothing to come back to.",
            hint="Deploy a version to the service first, by `trilho deploy`.",
        )
    if uri.rstrip("/").endswith(GROUND):
        raise UsageError(
            f"{running.name} is what a drill left that was killed: a broken version.",
            hint="Put the revision before back: `aws ecs update-service --cluster … --service … "
            f"--task-definition {running.family}:N`.",
        )
    return uri, digest


def _break(registry: Registry, digest: str, ground: Registry) -> Version:
    """Store a copy of a bundle whose golden rows expect what no model answers."""
    with TemporaryDirectory(prefix="trilho-drill-") as temporary:
        folder = Path(temporary) / "bundle"
        manifest = registry.fetch_bundle(digest, folder)
        golden = bundle.read_golden(folder)
        wrong = msgspec.structs.replace(golden, expected=[_off(e) for e in golden.expected])
        (folder / "golden.json").unlink()
        (folder / "golden.json").write_bytes(bundle.canonical(wrong))
        at = now()  # so that each drill's bundle is another one: it ends in quarantine
        manifest = msgspec.structs.replace(manifest, parameters=manifest.parameters | {"drill": at})
        bundle.seal(folder, manifest)
        return Version(
            number=0,  # no version, and never published
            digest=ground.put_bundle(folder),
            fingerprint=manifest.fingerprint,
            verdict="REJECT",
            metrics={},
            created_at=at,
            source=Source(actor="drill"),
        )


def _off(expected: Any) -> Any:
    if isinstance(expected, list):
        return [_off(value) for value in expected]
    return float(expected or 0) + 1.0


def _clean(ecs: Service, running: Revision, digest: str) -> str | None:
    """Retire the broken revision; return its name when that is not permitted."""
    revision = ecs.find(running.family, digest)
    if revision is None:
        return None
    try:
        ecs.client.deregister_task_definition(taskDefinition=revision.arn)
    except (ClientError, BotoCoreError):
        return revision.name
    return None
