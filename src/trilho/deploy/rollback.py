"""Go back to an earlier champion: service and alias together, the bad version quarantined."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from trilho.config import Deploy
from trilho.deploy.ecs import Progress
from trilho.deploy.rollout import POLL_SECONDS, Deployment, refuse_quarantined, ship
from trilho.errors import UsageError
from trilho.registry import CHAMPION, Alias, Registry, Source, Version
from trilho.serving import predictor


def rollback(
    registry: Registry,
    settings: Deploy,
    *,
    registry_url: str,
    reason: str,
    to: int | None = None,
    source: Source | None = None,
    progress: Progress = lambda _: None,
    poll: float = POLL_SECONDS,
) -> Deployment:
    """Make an earlier version serve again and the champion, and quarantine the present one.

    Called again by the same workflow run after it succeeded, it goes no further back.

    Parameters
    ----------
    registry, settings, registry_url, source, progress, poll
        As for `rollout.deploy`.
    reason
        Why, for the history and the quarantine.
    to
        The version to go back to; the champion before the present one when left out.

    Raises
    ------
    UsageError
        There is no champion, no earlier one, or the version named cannot be gone back to.
    IntegrityError
        The bundle to go back to is not whole; nothing was changed.
    DeploymentError
        It failed; the present version serves on.
    """
    champion = registry.alias(CHAMPION)
    if champion is None:
        raise UsageError(
            "There is no champion, so there is nothing to roll back.",
            hint="`trilho models` lists the versions; `trilho deploy --version N` deploys one.",
        )
    by = source or Source.current()
    if to in (None, champion.version) and _rolled_back(registry, champion, by):
        target = registry.version(champion.version)
        progress(f"this run went back to version {target.number} before")
    else:
        target = _target(registry, champion, to)
        progress(f"rolling back from version {champion.version} to version {target.number}")
    check_whole(registry, target)

    def promote() -> None:
        # In this order: a run killed in between has named the bad version, and its rerun
        # goes to the same target.
        registry.quarantine(champion.digest, reason, by)
        registry.move_alias(CHAMPION, target.number, expected=champion, source=by, reason=reason)

    return ship(
        registry,
        target,
        champion,
        settings,
        registry_url=registry_url,
        source=by,
        promote=promote,
        reuse=True,
        progress=progress,
        poll=poll,
    )


def _target(registry: Registry, champion: Alias, to: int | None) -> Version:
    target = earlier(registry, champion) if to is None else registry.version(to)
    if target.digest == champion.digest:
        raise UsageError(
            f"Version {target.number} is the champion already.",
            hint="Name another version with --to; `trilho models` lists them.",
        )
    refuse_quarantined(registry, target)
    return target


def _rolled_back(registry: Registry, champion: Alias, by: Source) -> bool:
    """Whether this workflow run made the present champion it by a rollback: it was run again."""
    if by.run_url is None or champion.source.run_url != by.run_url or not champion.from_version:
        return False
    bad = registry.quarantined(registry.version(champion.from_version).digest)
    return bad is not None and bad.source.run_url == by.run_url


def earlier(registry: Registry, champion: Alias) -> Version:
    """Return the latest champion before the present one that is not quarantined."""
    events = sorted(registry.history(), key=lambda event: event.at, reverse=True)
    for event in events:
        for number in (event.to_version, event.from_version):
            if number is None or number == champion.version:
                continue
            if event.kind not in ("promoted", "rolled-back"):
                continue
            version = registry.version(number)
            if version.digest != champion.digest and not registry.quarantined(version.digest):
                return version
    raise UsageError(
        f"No version but {champion.version} was ever a champion and is fit to go back to.",
        hint="Name one with --to; `trilho models` lists them.",
    )


def check_whole(registry: Registry, version: Version) -> None:
    """Fetch and verify a version's bundle; load its compiled form and repeat the golden rows.

    Raises
    ------
    IntegrityError
        Naming the file that is missing or changed.
    """
    with TemporaryDirectory(prefix="trilho-rollback-") as temporary:
        folder = Path(temporary) / "bundle"
        manifest = registry.fetch_bundle(version.digest, folder)
        if manifest.serving == "compiled":
            predictor.load(folder, manifest, version.digest, str(version.number))
