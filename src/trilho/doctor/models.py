"""The registry itself: everything that a version needs is there and is what its digest names."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trilho import bundle
from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, aws, bad, doubt, good
from trilho.errors import IntegrityError, TrilhoError, UsageError
from trilho.registry import CHAMPION, Version, keys
from trilho.report.text import counted
from trilho.storage import NotFound


def versions(c: Context) -> Finding:
    """Whether the numbers 1, 2, 3 ... are all there."""
    found = c.once("versions", c.registry.versions)
    if not found:
        raise Unknown("no version was published yet", "trilho retrain && trilho publish")
    numbers = {version.number for version in found}
    if missing := sorted(set(range(1, max(numbers) + 1)) - numbers):
        return bad(
            f"of {counted(max(numbers), 'version')} these are gone: {', '.join(map(str, missing))}",
            _look_for(c, keys.version(missing[0])),
        )
    return good(counted(len(numbers), "version"))


def champion(c: Context) -> Finding:
    alias = c.registry.alias(CHAMPION)
    if alias is None:
        if not c.once("versions", c.registry.versions):
            raise Unknown("no version was published yet")
        return doubt("there is no champion yet: nothing was deployed", "trilho deploy --version 1")
    version = c.registry.version(alias.version)
    if version.digest != alias.digest:
        return bad(
            f"the alias says v{alias.version} is {alias.digest}, the version says {version.digest}",
            f"trilho rollback --to {max(1, alias.version - 1)} --reason 'the alias is damaged'",
        )
    if barred := c.registry.quarantined(alias.digest):
        return bad(
            f"v{alias.version} serves and is quarantined: {barred.reason}",
            "trilho rollback --reason 'the champion is quarantined'",
        )
    return good(f"v{alias.version}, {alias.digest}")


def integrity(c: Context) -> list[Finding]:
    """Whether each version's files are there, and with `deep` are what their digests say."""
    found = c.once("versions", c.registry.versions)
    damaged = []
    seen: set[str] = set()
    for number, version in enumerate(found, 1):
        c.tell(f"version {version.number} ({number} of {len(found)})")
        try:
            manifest = c.registry.check_bundle(version.digest)
            if c.deep:
                _rehash(c, manifest, seen)
        except (IntegrityError, UsageError) as error:
            damaged.append(_damaged(c, version, error))
    if damaged:
        return damaged
    how = "is there and re-hashed" if c.deep else "is there with its size; --deep re-hashes"
    return [good(f"every file of {counted(len(found), 'version')} {how}")]


def _rehash(c: Context, manifest: bundle.Manifest, seen: set[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="trilho-doctor-") as folder:
        file = Path(folder) / "file"
        for name, entry in manifest.files.items():
            if entry.sha256 in seen:
                continue
            c.tell(f"{name}, {entry.size:,} bytes")
            c.registry.store.download(keys.blob(entry.sha256), file)
            if bundle.sha256_file(file) != entry.sha256:
                raise IntegrityError(
                    f"Bundle file {name} was changed: {keys.blob(entry.sha256)} is not what its "
                    "name says."
                )
            file.unlink()
            seen.add(entry.sha256)


def _damaged(c: Context, version: Version, error: TrilhoError) -> Finding:
    try:
        files = c.registry.read_manifest(version.digest).files.values()
    except TrilhoError:
        key = keys.manifest(version.digest)
    else:
        key = next((k for f in files if not _is_there(c, k := keys.blob(f.sha256), f.size)), "")
        if not key:  # there, with another content
            key = next((w for w in error.message.split() if w.startswith("blobs/")), "blobs/")
    return bad(f"v{version.number}: {error.message}", _look_for(c, key))


def _is_there(c: Context, key: str, size: int) -> bool:
    try:
        return c.registry.store.size(key) == size
    except NotFound:
        return False


def _look_for(c: Context, key: str) -> str:
    """The command that finds an object's older versions, to be put back."""
    if c.bucket is None:
        return f"ls -l {Path(c.registry_url) / key}  # put it back from a backup"
    name = "/".join(part for part in (c.prefix, key) if part)
    look = aws("s3api", "list-object-versions", bucket=c.bucket, prefix=name)
    return f"{look}  # then put the right one back: docs/doctor.md"
