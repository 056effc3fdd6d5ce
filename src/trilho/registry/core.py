"""The registry's actions."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from trilho import bundle
from trilho.errors import ConflictError, IntegrityError, UsageError
from trilho.registry import keys
from trilho.registry.bundles import Bundles, together
from trilho.registry.records import (
    CHAMPION,
    Alias,
    Candidate,
    Event,
    Quarantined,
    QuarantinedError,
    RunRecord,
    Source,
    Version,
    now,
    stamp,
)
from trilho.storage import AlreadyExists, NotFound, Store, open_store

R = TypeVar("R", bound=msgspec.Struct)


def open_registry(url: str) -> Registry:
    """Return the registry at `s3://bucket/prefix` or in a folder; nothing is read yet."""
    return Registry(open_store(url))


class Registry(Bundles):
    """Bundles, versions, aliases and history in one store. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._versions: dict[int, Version] = {}
        self._told: set[str] = set()

    # --- candidates and runs ---

    def candidate(self, fingerprint: str) -> Candidate | None:
        """Return what was trained from these inputs, if anything was."""
        with contextlib.suppress(NotFound):
            return self._read(keys.candidate(fingerprint), Candidate)
        return None

    def put_candidate(self, candidate: Candidate) -> None:
        """Keep a candidate and its verdict; a later verdict on the same bundle replaces it.

        Raises
        ------
        ConflictError
            Another bundle was trained from the same inputs meanwhile: that one stands, so that
            what a reviewer saw is what is deployed. A quarantined one gives way.
        """
        key = keys.candidate(candidate.fingerprint)
        while True:
            etag = None
            with contextlib.suppress(NotFound):
                data, etag = self.store.get(key)
                before = _decode(data, Candidate, key, self.store.url)
                if before.digest != candidate.digest and not self.quarantined(before.digest):
                    raise ConflictError(
                        f"The same inputs gave bundle {before.digest} already, this time "
                        f"{candidate.digest}.",
                        hint="Run `trilho train` without --force: it takes up the first one.",
                    )
            with contextlib.suppress(ConflictError):
                self.store.swap(key, bundle.canonical(candidate), etag)
                return

    def put_run(self, run: RunRecord) -> None:
        """Keep the record of a training run; the same record again is no error."""
        self._put_same(keys.run(run.id), bundle.canonical(run))

    def run(self, id: str) -> RunRecord | None:
        """Return the record of one training run."""
        try:
            return self._read(f"runs/{id}.json", RunRecord)
        except NotFound:
            return None

    def runs(self) -> list[RunRecord]:
        """Return all training runs, the oldest first."""
        runs = together(lambda key: self._read(key, RunRecord), self.store.list("runs/"))
        return sorted(runs, key=lambda run: (run.started_at, run.id))

    # --- versions ---

    def publish(self, digest: str, *, verdict: str, source: Source) -> Version:
        """Give a stored bundle the next version number; published before, it keeps its number.

        Raises
        ------
        QuarantinedError
            The bundle is in quarantine.
        UsageError, IntegrityError
            The store does not hold the whole bundle.
        """
        self.refuse_quarantined(digest)
        manifest = self.check_bundle(digest)
        # A number is taken only after every lower one was read: so a digest has one number.
        versions = {version.number: version for version in self.versions()}
        for version in versions.values():
            if version.digest == digest:
                return self._published(version)
        number = max(versions, default=0)
        while True:
            number += 1
            version = Version(
                number=number,
                digest=digest,
                fingerprint=manifest.fingerprint,
                verdict=verdict,
                metrics=manifest.metrics,
                created_at=now(),
                source=source,
            )
            try:
                self.store.put_once(keys.version(number), bundle.canonical(version))
            except AlreadyExists:  # somebody else was first
                version = self._version(number)
                if version.digest != digest:
                    continue
            return self._published(version)

    def versions(self) -> list[Version]:
        """Return all versions in the order of their numbers."""
        found = [int(Path(key).stem) for key in self.store.list("versions/")]
        # A listing may miss a number that is written while it is made.
        numbers = range(1, max(found, default=0) + 1)
        return [version for version in together(self._version_or_none, numbers) if version]

    def version(self, number: int) -> Version:
        """Return a version; UsageError, listing the known ones, when there is none."""
        try:
            return self._version(number)
        except NotFound:
            known = ", ".join(str(version.number) for version in self.versions()) or "none"
            raise UsageError(
                f"There is no version {number} in {self.store.url}; known: {known}."
            ) from None

    def version_of(self, digest: str) -> Version | None:
        """Return the version that a bundle was published as."""
        return next((v for v in self.versions() if v.digest == digest), None)

    # --- aliases and history ---

    def alias(self, name: str) -> Alias | None:
        """Return where an alias points, with the etag that the next move of it must name."""
        key = keys.alias(name)
        try:
            data, etag = self.store.get(key)
        except NotFound:
            return None
        return msgspec.structs.replace(_decode(data, Alias, key, self.store.url), etag=etag)

    def aliases(self) -> list[Alias]:
        """Return all aliases, by name."""
        found = [self.alias(Path(key).stem) for key in self.store.list("aliases/")]
        return [alias for alias in found if alias]

    def move_alias(
        self,
        name: str,
        version: int,
        *,
        expected: Alias | None,
        source: Source,
        reason: str | None = None,
    ) -> Alias:
        """Point an alias at a version, if nobody moved it since `expected` was read.

        Parameters
        ----------
        name
            The alias, such as "champion".
        version
            Where it shall point.
        expected
            What `alias(name)` returned: the move is decided upon that.
        source, reason
            Who moves it and why, for the history.

        Raises
        ------
        ConflictError
            Somebody else moved it: look again, and decide again.
        QuarantinedError
            The version's bundle is in quarantine.
        UsageError
            There is no such version.
        """
        target = self.version(version)
        self.refuse_quarantined(target.digest)
        if expected is not None:
            self._moved(expected)  # in case its mover was killed before he could tell
            if expected.version == version:
                current = self.alias(name)
                if current is None or current.etag != expected.etag:
                    raise _conflict(name)
                return current
        moved = Alias(
            name=name,
            version=version,
            digest=target.digest,
            moved_at=_after(expected.moved_at if expected else None),
            source=source,
            reason=reason or source.reason,
            from_version=expected.version if expected else None,
        )
        try:
            etag = self.store.swap(
                keys.alias(name), bundle.canonical(moved), expected.etag if expected else None
            )
        except ConflictError:
            raise _conflict(name) from None
        self._moved(moved)
        return msgspec.structs.replace(moved, etag=etag)

    def history(self) -> list[Event]:
        """Return all that happened, the oldest first."""
        return together(lambda key: self._read(key, Event), self.store.list("history/"))

    # --- quarantine ---

    def quarantine(self, digest: str, reason: str, source: Source) -> Quarantined:
        """Bar a bundle from being published or promoted, for good; the first reason stands."""
        entry = Quarantined(digest=digest, reason=reason, at=now(), source=source)
        try:
            self.store.put_once(keys.quarantine(digest), bundle.canonical(entry))
        except AlreadyExists:
            entry = self._read(keys.quarantine(digest), Quarantined)
        version = self.version_of(digest)
        self._tell(
            Event(
                at=entry.at,
                kind="quarantined",
                source=entry.source,
                from_version=version.number if version else None,
                digest=digest,
                reason=entry.reason,
            )
        )
        return entry

    def quarantined(self, digest: str) -> Quarantined | None:
        """Return why a bundle is in quarantine; None when it is not."""
        with contextlib.suppress(NotFound):
            return self._read(keys.quarantine(digest), Quarantined)
        return None

    def refuse_quarantined(self, digest: str) -> None:
        """Raise QuarantinedError, saying who barred the bundle, when and why; else do nothing."""
        if entry := self.quarantined(digest):
            raise QuarantinedError(
                f"Bundle {digest} is in quarantine since {entry.at} ({entry.source.actor}): "
                f"{entry.reason}",
                hint="A quarantine is for good, and the same inputs make the same bundle: change "
                "the data, the parameters or the code.",
            )

    # --- inside ---

    def _published(self, version: Version) -> Version:
        self._tell(
            Event(
                at=version.created_at,
                kind="published",
                source=version.source,
                to_version=version.number,
                digest=version.digest,
                reason=version.source.reason,
            )
        )
        return version

    def _moved(self, alias: Alias) -> None:
        back = alias.from_version is not None and alias.version < alias.from_version
        served = "rolled-back" if back else "promoted"
        self._tell(
            Event(
                at=alias.moved_at,
                kind=served if alias.name == CHAMPION else "moved",
                source=alias.source,
                alias=alias.name,
                from_version=alias.from_version,
                to_version=alias.version,
                digest=alias.digest,
                reason=alias.reason,
            )
        )

    def _tell(self, event: Event) -> None:
        """Add an event to the history once. Its name follows from its content, and its content
        from the record that it tells of: whoever finishes a killed action tells it no second time.
        """
        data = bundle.canonical(event)
        key = keys.event(event.at, bundle.sha256_bytes(data))
        if key not in self._told:
            with contextlib.suppress(AlreadyExists):
                self.store.put_once(key, data)
            self._told.add(key)

    def _read(self, key: str, kind: type[R]) -> R:
        return _decode(self.store.get(key).data, kind, key, self.store.url)

    def _version(self, number: int) -> Version:
        if number not in self._versions:
            self._versions[number] = self._read(keys.version(number), Version)
        return self._versions[number]

    def _version_or_none(self, number: int) -> Version | None:
        with contextlib.suppress(NotFound):
            return self._version(number)
        return None


def _decode(data: bytes, kind: type[R], key: str, url: str) -> R:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise IntegrityError(
            f"'{key}' in {url} cannot be read: {error}.",
            hint="It was damaged, or written by a newer trilho.",
        ) from None


def _after(before: str | None) -> str:
    """The time now, or just after `before` if that machine's clock was ahead."""
    at = now()
    if before is not None and at <= before:
        return stamp(datetime.fromisoformat(before) + timedelta(microseconds=1))
    return at


def _conflict(name: str) -> ConflictError:
    return ConflictError(
        f"The alias '{name}' was moved by somebody else in the meantime.",
        hint="See `trilho models`, then run the command again.",
    )
