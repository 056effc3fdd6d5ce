"""The registry's actions."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from trilho import bundle
from trilho.bundle import Manifest
from trilho.errors import ConflictError, IntegrityError, UsageError, nearest
from trilho.registry.records import (
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

WORKERS = 8  # requests to the store at one time

T = TypeVar("T")
Item = TypeVar("Item")
R = TypeVar("R", bound=msgspec.Struct)


def open_registry(url: str) -> Registry:
    """Return the registry at `s3://bucket/prefix` or in a folder; nothing is read yet."""
    return Registry(open_store(url))


class Registry:
    """Bundles, versions, aliases and history in one store. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._manifests: dict[str, Manifest] = {}  # written once, so read once
        self._versions: dict[int, Version] = {}
        self._told: set[str] = set()

    # --- bundles ---

    def put_bundle(self, folder: Path) -> str:
        """Store a sealed bundle and return its digest; what is there already is not sent again.

        Raises
        ------
        IntegrityError
            The folder is not what its manifest says, or the store holds a damaged copy.
        """
        manifest, digest = bundle.verify(folder)
        files = {entry.sha256: folder / name for name, entry in manifest.files.items()}
        _together(
            lambda item: self.store.upload_once(_blob(item[0]), item[1], item[0]), files.items()
        )
        self._put_same(_manifest(digest), (folder / bundle.MANIFEST).read_bytes())
        return digest

    def read_manifest(self, digest: str) -> Manifest:
        """Return the manifest of a stored bundle, verified against its digest."""
        if digest not in self._manifests:
            self._manifests[digest] = bundle.parse_manifest(self._manifest_bytes(digest))
        return self._manifests[digest]

    def bundle_file(self, digest: str, name: str) -> bytes:
        """Return one file of a stored bundle, verified against its manifest."""
        entry = self.read_manifest(digest).files.get(name)
        if entry is None:
            known = list(self.read_manifest(digest).files)
            raise UsageError(f"Bundle {digest} has no file '{name}'{nearest(name, known)}.")
        try:
            data = self.store.get(_blob(entry.sha256)).data
        except NotFound:
            raise self._missing(name, entry.sha256) from None
        if bundle.sha256_bytes(data) != entry.sha256:
            raise IntegrityError(
                f"Bundle file {name} was changed in {self.store.url}: its sha256 does not match."
            )
        return data

    def fetch_bundle(self, digest: str, folder: Path) -> Manifest:
        """Bring a bundle into `folder`, which appears whole and verified, or not at all.

        A folder that holds exactly this bundle already is used as it is; another or a damaged
        bundle there is replaced.

        Raises
        ------
        IntegrityError
            Naming the file that is missing, truncated or changed.
        UsageError
            There is no such bundle, or the folder holds something that is no bundle.
        """
        folder = folder.absolute()
        if folder.exists():
            with contextlib.suppress(IntegrityError):
                return bundle.verify(folder, digest)[0]
            if any(folder.iterdir()) and not (folder / bundle.MANIFEST).exists():
                raise UsageError(
                    f"{folder} holds something that is not a bundle.",
                    hint="Name an empty or a new folder.",
                )
        manifest = self.read_manifest(digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark = f"{folder.name}.{secrets.token_hex(4)}"
        partial = folder.with_name(f".{mark}.partial")
        try:
            self._download(manifest, partial)
            (partial / bundle.MANIFEST).write_bytes(self._manifest_bytes(digest))
            bundle.verify(partial, digest)
            self._install(partial, folder, folder.with_name(f".{mark}.old"), digest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def check_bundle(self, digest: str) -> Manifest:
        """Return the manifest of a bundle after a look that each of its files is in the store.

        Raises
        ------
        IntegrityError
            Naming a file that is missing or has the wrong size. Contents are verified when fetched.
        """
        manifest = self.read_manifest(digest)

        def check(item: tuple[str, bundle.File]) -> None:
            name, entry = item
            try:
                size = self.store.size(_blob(entry.sha256))
            except NotFound:
                raise self._missing(name, entry.sha256) from None
            if size != entry.size:
                raise IntegrityError(
                    f"Bundle file {name} has {size} bytes in {self.store.url}, "
                    f"expected {entry.size}."
                )

        _together(check, manifest.files.items())
        return manifest

    # --- candidates and runs ---

    def candidate(self, fingerprint: str) -> Candidate | None:
        """Return what was trained from these inputs, if anything was."""
        with contextlib.suppress(NotFound):
            return self._read(_candidate(fingerprint), Candidate)
        return None

    def put_candidate(self, candidate: Candidate) -> None:
        """Keep a candidate and its verdict; a later verdict on the same bundle replaces it.

        Raises
        ------
        ConflictError
            Another bundle was trained from the same inputs meanwhile: that one stands, so that
            what a reviewer saw is what is deployed. A quarantined one gives way.
        """
        key = _candidate(candidate.fingerprint)
        while True:
            etag = None
            with contextlib.suppress(NotFound):
                data, etag = self.store.get(key)
                before = _decode(data, Candidate, key, self.store.url)
                if before.digest != candidate.digest and not self.quarantined(before.digest):
                    raise ConflictError(
                        f"The same inputs gave bundle {before.digest} already, this time "
                        f"{candidate.digest}.",
                        hint="Run the command again: it takes up the first one.",
                    )
            with contextlib.suppress(ConflictError):
                self.store.swap(key, bundle.canonical(candidate), etag)
                return

    def put_run(self, run: RunRecord) -> None:
        """Keep the record of a training run; the same record again is no error."""
        self._put_same(f"runs/{run.id}.json", bundle.canonical(run))

    def runs(self) -> list[RunRecord]:
        """Return all training runs, the oldest first."""
        runs = _together(lambda key: self._read(key, RunRecord), self.store.list("runs/"))
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
        self._refuse_quarantined(digest)
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
                self.store.put_once(_version(number), bundle.canonical(version))
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
        return [version for version in _together(self._version_or_none, numbers) if version]

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
        key = _alias(name)
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
        self._refuse_quarantined(target.digest)
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
                _alias(name), bundle.canonical(moved), expected.etag if expected else None
            )
        except ConflictError:
            raise _conflict(name) from None
        self._moved(moved)
        return msgspec.structs.replace(moved, etag=etag)

    def history(self) -> list[Event]:
        """Return all that happened, the oldest first."""
        return _together(lambda key: self._read(key, Event), self.store.list("history/"))

    # --- quarantine ---

    def quarantine(self, digest: str, reason: str, source: Source) -> Quarantined:
        """Bar a bundle from being published or promoted, for good; the first reason stands."""
        entry = Quarantined(digest=digest, reason=reason, at=now(), source=source)
        try:
            self.store.put_once(_quarantine(digest), bundle.canonical(entry))
        except AlreadyExists:
            entry = self._read(_quarantine(digest), Quarantined)
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
            return self._read(_quarantine(digest), Quarantined)
        return None

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
        self._tell(
            Event(
                at=alias.moved_at,
                kind="rolled-back" if back else "promoted",
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
        time = re.sub(r"[^0-9T.]", "", event.at.partition("+")[0])
        key = f"history/{time}-{_hex(bundle.sha256_bytes(data))[:16]}.json"
        if key not in self._told:
            with contextlib.suppress(AlreadyExists):
                self.store.put_once(key, data)
            self._told.add(key)

    def _put_same(self, key: str, data: bytes) -> None:
        """Create an object, or find it there with the same content."""
        try:
            self.store.put_once(key, data)
        except AlreadyExists:
            if self.store.get(key).data != data:
                raise IntegrityError(
                    f"'{key}' exists in {self.store.url} with another content."
                ) from None

    def _read(self, key: str, kind: type[R]) -> R:
        return _decode(self.store.get(key).data, kind, key, self.store.url)

    def _version(self, number: int) -> Version:
        if number not in self._versions:
            self._versions[number] = self._read(_version(number), Version)
        return self._versions[number]

    def _version_or_none(self, number: int) -> Version | None:
        with contextlib.suppress(NotFound):
            return self._version(number)
        return None

    def _manifest_bytes(self, digest: str) -> bytes:
        try:
            data = self.store.get(_manifest(digest)).data
        except NotFound:
            raise UsageError(f"There is no bundle {digest} in {self.store.url}.") from None
        if bundle.sha256_bytes(data) != digest:
            raise IntegrityError(
                f"The manifest of bundle {digest} was changed in {self.store.url}: its sha256 does "
                "not match."
            )
        return data

    def _download(self, manifest: Manifest, folder: Path) -> None:
        folder.mkdir()

        def download(item: tuple[str, bundle.File]) -> None:
            name, entry = item
            bundle.check_name(name)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.download(_blob(entry.sha256), path)
            except NotFound:
                raise self._missing(name, entry.sha256) from None

        _together(download, manifest.files.items())

    def _install(self, partial: Path, folder: Path, old: Path, digest: str) -> None:
        """Give a verified bundle its name; whoever did the same at the same time is welcome."""
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            partial.rename(folder)
        except OSError:
            bundle.verify(folder, digest)
        finally:
            shutil.rmtree(old, ignore_errors=True)

    def _missing(self, name: str, sha256: str) -> IntegrityError:
        return IntegrityError(
            f"Bundle file {name} is missing: there is no '{_blob(sha256)}' in {self.store.url}."
        )

    def _refuse_quarantined(self, digest: str) -> None:
        if entry := self.quarantined(digest):
            raise QuarantinedError(
                f"Bundle {digest} is in quarantine since {entry.at} ({entry.source.actor}): "
                f"{entry.reason}",
                hint="Train a better one; a quarantine is for good.",
            )


def _decode(data: bytes, kind: type[R], key: str, url: str) -> R:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise IntegrityError(
            f"'{key}' in {url} cannot be read: {error}.",
            hint="It was damaged, or written by a newer trilho.",
        ) from None


def _together(do: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
    """Do it for all items, some at a time, in their order; the first error is raised."""
    items = list(items)
    if len(items) < 2:
        return [do(item) for item in items]
    with ThreadPoolExecutor(min(WORKERS, len(items))) as pool:
        return list(pool.map(do, items))


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


def _hex(digest: str) -> str:
    """The hex digits of a `sha256:` digest; they become part of keys."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UsageError(f"'{digest}' is not a digest: expected sha256: and 64 hex digits.")
    return digest.removeprefix("sha256:")


def _blob(sha256: str) -> str:
    return f"blobs/sha256/{_hex(sha256)}"


def _manifest(digest: str) -> str:
    return f"manifests/{_hex(digest)}.json"


def _candidate(fingerprint: str) -> str:
    return f"candidates/{_hex(fingerprint)}.json"


def _quarantine(digest: str) -> str:
    return f"quarantine/{_hex(digest)}.json"


def _version(number: int) -> str:
    return f"versions/{number:06d}.json"


def _alias(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
        raise UsageError(f"'{name}' is no name for an alias: lower case, digits and dashes.")
    return f"aliases/{name}.json"
