"""The bundle: an immutable folder that holds a model and all that is known of it.

The serving image imports this module, so it needs the standard library, numpy and msgspec only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from trilho.errors import IntegrityError

MANIFEST = "manifest.json"
FORMAT = 1


class File(Struct, frozen=True, kw_only=True):
    sha256: str
    size: int


class DatasetInfo(Struct, frozen=True, kw_only=True):
    digest: str
    rows: int
    holdout_rows: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What a bundle is. Its canonical JSON's sha256 is the bundle's digest, and its only name.

    Nothing that varies by itself stands here (times, actors, commits, measured latency): the same
    inputs on the same machine give the same digest.
    """

    format: int = FORMAT
    name: str
    task: str  # binary | multiclass | regression
    fingerprint: str
    dataset: DatasetInfo
    lock: str | None  # sha256 of the lock file
    split: str  # digest of the split settings: equal splits share hold-out rows
    serving: str  # compiled | sklearn
    serving_reason: str | None = None  # why it could not be compiled
    largest_difference: float | None = None  # compiled against scikit-learn, over all proof rows
    metrics: dict[str, float | None]  # point estimates on the hold-out
    parameters: dict[str, Any]  # the model's parameters, after search
    environment: dict[str, str]  # python, scikit-learn, numpy, treelite, ... versions
    files: dict[str, File]


class Column(Struct, frozen=True, kw_only=True):
    """One input column of the model, as a request must carry it."""

    name: str
    kind: str  # number | integer | boolean | string | date
    required: bool = True  # False: was missing in training, may be left out or null
    categories: list[str | int | float | bool] | None = None
    minimum: float | None = None
    maximum: float | None = None


class Signature(Struct, frozen=True, kw_only=True):
    """What goes in and what comes out."""

    columns: list[Column]
    target: str
    task: str
    classes: list[str | int | float | bool] | None = None
    positive: str | int | float | bool | None = None
    threshold: float | None = None  # binary: score >= threshold decides `positive`
    id: str | None = None
    sensitive: list[str] | UnsetType = UNSET  # columns, or the id, that no log may hold as they are


class Golden(Struct, frozen=True, kw_only=True):
    """Rows with the predictions they must give, wherever the model runs."""

    tolerance: float
    rows: list[dict[str, Any]]
    # binary: probability of `positive`; regression: the value; multiclass: a list of probabilities
    expected: list[Any]


def canonical(record: msgspec.Struct) -> bytes:
    """Return `record` as JSON with sorted keys: the bytes that a digest is taken of."""
    return msgspec.json.encode(record, order="sorted")


def sha256_bytes(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return `sha256:<hex>` of the file's bytes."""
    with open(path, "rb") as f:
        return "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()


def seal(folder: Path, manifest: Manifest) -> str:
    """Write `manifest.json` over the files in `folder` and return the bundle's digest.

    `manifest.files` is filled here from what the folder holds; the order in which the files were
    made does not matter.

    Raises
    ------
    IntegrityError
        The folder holds something that is neither a file nor a folder, such as a link.
    """
    partial = folder / (MANIFEST + ".partial")
    partial.unlink(missing_ok=True)  # of a seal that was killed
    names = _names(folder)
    for name in names:
        check_name(name)
    files = {
        name: File(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        for name in sorted(names)
    }
    data = canonical(msgspec.structs.replace(manifest, files=files))
    partial.write_bytes(data)
    os.replace(partial, folder / MANIFEST)
    return sha256_bytes(data)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest in `folder` and its digest, without looking at the other files."""
    data = _manifest_bytes(folder)
    return parse_manifest(data), sha256_bytes(data)


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(
            f"{folder} is not a bundle: {MANIFEST} is missing.",
            hint="Run `trilho train`, or fetch the bundle again.",
        ) from None


def parse_manifest(data: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{MANIFEST} cannot be read: {error}.") from None
    if manifest.format != FORMAT:
        raise IntegrityError(
            f"{MANIFEST} has format {manifest.format}, this version of trilho reads {FORMAT}.",
            hint="Use the trilho version that wrote the bundle, or train again.",
        )
    return manifest


def verify(folder: Path, digest: str | None = None) -> tuple[Manifest, str]:
    """Check every byte of the bundle in `folder`; nothing in it may be loaded before.

    Parameters
    ----------
    folder
        The bundle.
    digest
        The digest that the bundle must have; None takes the manifest as it stands.

    Raises
    ------
    IntegrityError
        Naming the first file that is missing, truncated, changed or not in the manifest.
    """
    data = _manifest_bytes(folder)
    actual = sha256_bytes(data)
    if digest is not None and actual != digest:
        raise IntegrityError(f"{folder / MANIFEST} has digest {actual}, expected {digest}.")
    manifest = parse_manifest(data)
    found = _names(folder)
    for name, entry in manifest.files.items():
        check_name(name)
        if name not in found:
            raise IntegrityError(f"Bundle file {name} is missing.")
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise IntegrityError(f"Bundle file {name} has {size} bytes, expected {entry.size}.")
        if sha256_file(folder / name) != entry.sha256:
            raise IntegrityError(f"Bundle file {name} was changed: its sha256 does not match.")
    if extra := found - manifest.files.keys():
        raise IntegrityError(f"Bundle holds a file that its manifest does not name: {min(extra)}.")
    return manifest, actual


def _names(folder: Path) -> set[str]:
    """The files in `folder` by relative name, without the manifest; anything but files is refused.

    A link could be turned to other bytes after they were verified.
    """
    names = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"Bundle holds {name}, which is neither a file nor a folder.")
        if path.is_file():
            names.add(name)
    return names - {MANIFEST}


def check_name(name: str) -> None:
    """Refuse a file name that would leave the bundle's folder."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(p in ("", ".", "..") for p in parts):
        raise IntegrityError(f"Bundle names a file outside of itself: {name!r}.")


def read_signature(folder: Path) -> Signature:
    return msgspec.json.decode((folder / "signature.json").read_bytes(), type=Signature)


def read_golden(folder: Path) -> Golden:
    return msgspec.json.decode((folder / "golden.json").read_bytes(), type=Golden)
