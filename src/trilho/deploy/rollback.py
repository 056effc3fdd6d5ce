"""Go back to an earlier champion: service and alias together, the bad version quarantined."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from trilho.config import Deploy
from trilho.deploy.ecs import Progress
from trilho.deploy.rollout import POLL_SECONDS, Deployment, refuse_quarantined, ship
from trilho.deploy.undo import VersionFailedError
from trilho.errors import DeploymentError, IntegrityError, TrilhoError, UsageError
from trilho.registry import CHAMPION, Alias, Registry, Source, Version
from trilho.serving import predictor

# Versions to try before giving up: each takes minutes, and what fails three times is seldom theirs.
MOST_TARGETS = 3


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

    Where no version is named and the champion before cannot serve, because its bundle is not whole
    or it fails the smoke test, the one before that is tried, and so on; `passed_over` of the result
    says so. A version that is named is the only one tried. Called again by the same workflow run
    after it succeeded, it goes no further back.

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
        The bundle of the version named is not whole; nothing was changed.
    DeploymentError
        It failed; the message says what serves, which is the present version as a rule.
    """
    champion = registry.alias(CHAMPION)
    if champion is None:
        raise UsageError(
            "There is no champion, so there is nothing to roll back.",
            hint="`trilho models` lists the versions; `trilho deploy --version N` deploys one.",
        )
    by = source or Source.current()
    if to in (None, champion.version) and _rolled_back(registry, champion, by):
        to = champion.version
        targets = [registry.version(to)]
        progress(f"this run went back to version {to} before")
    else:
        targets = _targets(registry, champion, to)
    passed: list[str] = []
    for target in targets:
        try:
            done = _go_to(
                target,
                registry,
                champion,
                settings,
                registry_url=registry_url,
                reason=reason,
                by=by,
                progress=progress,
                poll=poll,
            )
        except TrilhoError as error:
            if to is not None or not _is_about(target, error):
                raise
            passed.append(f"Version {target.number} cannot be gone back to: {error.message}")
            progress(passed[-1])
        else:
            return msgspec.structs.replace(done, passed_over=passed)
    raise DeploymentError(
        f"{' '.join(passed)} Version {champion.version} is the {CHAMPION} still.",
        hint="Name another version with --to; `trilho models` lists them.",
    )


def _go_to(
    target: Version,
    registry: Registry,
    champion: Alias,
    settings: Deploy,
    *,
    registry_url: str,
    reason: str,
    by: Source,
    progress: Progress,
    poll: float,
) -> Deployment:
    if target.digest != champion.digest:
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
        proven=any(target.digest == version.digest for version in earlier(registry, champion)),
        progress=progress,
        poll=poll,
    )


def _targets(registry: Registry, champion: Alias, to: int | None) -> list[Version]:
    """The versions to try, in this order."""
    if to is None:
        found = earlier(registry, champion)
        if not found:
            raise UsageError(
                f"No version but {champion.version} was ever a champion and is fit to go back to.",
                hint="Name one with --to; `trilho models` lists them.",
            )
        return found[:MOST_TARGETS]
    target = registry.version(to)
    if target.digest == champion.digest:
        raise UsageError(
            f"Version {target.number} is the champion already.",
            hint="Name another version with --to; `trilho models` lists them.",
        )
    refuse_quarantined(registry, target)
    return [target]


def _is_about(target: Version, error: TrilhoError) -> bool:
    """Whether a failure is about this version, so that another one may do better."""
    if isinstance(error, UsageError):
        return target.digest in error.message  # its manifest is gone
    return isinstance(error, IntegrityError | VersionFailedError)


def _rolled_back(registry: Registry, champion: Alias, by: Source) -> bool:
    """Whether this workflow run made the present champion it by a rollback: it was run again."""
    if by.run_url is None or champion.source.run_url != by.run_url or not champion.from_version:
        return False
    bad = registry.quarantined(registry.version(champion.from_version).digest)
    return bad is not None and bad.source.run_url == by.run_url


def earlier(registry: Registry, champion: Alias) -> list[Version]:
    """Return the champions before the present one that are not quarantined, the latest first."""
    found: dict[str, Version] = {}
    for event in sorted(registry.history(), key=lambda event: event.at, reverse=True):
        if event.kind not in ("promoted", "rolled-back"):
            continue
        for number in (event.to_version, event.from_version):
            if number is not None and number != champion.version:
                version = registry.version(number)
                found.setdefault(version.digest, version)
    return [
        version
        for version in found.values()
        if version.digest != champion.digest and not registry.quarantined(version.digest)
    ]


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
