"""Looking at the registry: which versions there are, and how two of them differ."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct, structs

from trilho.errors import UsageError
from trilho.registry.core import Registry
from trilho.registry.records import Quarantined, Version


class Described(Struct, frozen=True, kw_only=True):
    """A version, with the aliases that point at it and its quarantine."""

    version: Version
    aliases: list[str]
    quarantined: Quarantined | None = None


class Change(Struct, frozen=True, kw_only=True):
    """A value that differs; None on the side that has none."""

    name: str
    before: Any
    after: Any


class Diff(Struct, frozen=True, kw_only=True):
    """How version `b` differs from version `a`; what is equal is left out."""

    a: Version
    b: Version
    bundle: list[Change]  # task, split, serving, lock, ...
    dataset: list[Change]
    metrics: list[Change]
    parameters: list[Change]
    environment: list[Change]
    files: list[Change]  # name to sha256


def describe(registry: Registry) -> list[Described]:
    """Return all versions, the newest first."""
    pointing: dict[int, list[str]] = {}
    for alias in registry.aliases():
        pointing.setdefault(alias.version, []).append(alias.name)
    barred = {key.removeprefix("quarantine/") for key in registry.store.list("quarantine/")}
    return [
        Described(
            version=version,
            aliases=pointing.get(version.number, []),
            quarantined=registry.quarantined(version.digest)
            if version.digest.removeprefix("sha256:") + ".json" in barred
            else None,
        )
        for version in reversed(registry.versions())
    ]


def resolve(registry: Registry, reference: str) -> Version:
    """Return the version that is meant by `3`, `v3`, `champion`, or the beginning of a digest.

    Raises
    ------
    UsageError
        Nothing, or more than one version, is meant; the message lists what there is.
    """
    versions = registry.versions()
    by_number = {version.number: version for version in versions}
    if match := re.fullmatch(r"v?(\d+)", reference):
        found = by_number.get(int(match[1]))
        if found:
            return found
    if re.fullmatch(r"(sha256:)?[0-9a-f]{6,64}", reference):
        start = "sha256:" + reference.removeprefix("sha256:")
        matching = [version for version in versions if version.digest.startswith(start)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            numbers = ", ".join(str(version.number) for version in matching)
            raise UsageError(f"'{reference}' fits versions {numbers}: give more digits.")
    aliases = {alias.name: alias.version for alias in registry.aliases()}
    if reference in aliases:
        return registry.version(aliases[reference])
    numbers = ", ".join(str(number) for number in by_number) or "none"
    names = ", ".join(sorted(aliases)) or "none"
    raise UsageError(
        f"There is no version '{reference}' in {registry.store.url}. "
        f"Versions: {numbers}; aliases: {names}.",
        hint="Give a number (3 or v3), an alias, or six or more digits of a digest.",
    )


def diff(registry: Registry, a: Version, b: Version) -> Diff:
    """Return what differs between two versions, `a` being the one before."""
    old, new = registry.read_manifest(a.digest), registry.read_manifest(b.digest)
    apart = {"dataset", "metrics", "parameters", "environment", "files"}
    plain = [field for field in old.__struct_fields__ if field not in apart]
    return Diff(
        a=a,
        b=b,
        bundle=changes(
            {name: getattr(old, name) for name in plain},
            {name: getattr(new, name) for name in plain},
        ),
        dataset=changes(structs.asdict(old.dataset), structs.asdict(new.dataset)),
        metrics=changes(old.metrics, new.metrics),
        parameters=changes(old.parameters, new.parameters),
        environment=changes(old.environment, new.environment),
        files=changes(
            {name: file.sha256 for name, file in old.files.items()},
            {name: file.sha256 for name, file in new.files.items()},
        ),
    )


def changes(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[Change]:
    """Return what differs between two trees, by dotted names, in the order of the names."""
    found: list[Change] = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{path}{key}.")
        elif old != new:
            found.append(Change(name=path + key, before=old, after=new))
    return found
