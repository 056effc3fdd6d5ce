"""What every store promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from trilho.errors import ConflictError, IntegrityError, TrilhoError, UsageError

# No segment starts with a dot: there is no way up, and the folder store keeps its own files so.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+@,-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)*({_SEGMENT})?")


class Stored(NamedTuple):
    """An object's bytes, and the opaque tag that `swap` compares."""

    data: bytes
    etag: str


class NotFound(TrilhoError):  # noqa: N818 - reads better where it is caught
    """There is no object of that key."""


class AlreadyExists(TrilhoError):  # noqa: N818
    """The key is taken, and objects are written once."""


class Store(Protocol):
    """Objects by key. Safe to share between threads; any number of processes may use one place."""

    url: str

    def get(self, key: str) -> Stored:
        """Return the object; raises NotFound."""
        ...

    def put_once(self, key: str, data: bytes) -> str:
        """Create the object and return its etag; one writer wins, others get AlreadyExists."""
        ...

    def upload_once(self, key: str, path: Path, sha256: str) -> None:
        """Create the object from a file whose `sha256:<hex>` is given.

        An object that is there already with that content is success; with another content, or if
        the file is not what `sha256` says, IntegrityError.
        """
        ...

    def download(self, key: str, path: Path) -> None:
        """Write the object to the file, which appears whole or not at all; raises NotFound."""
        ...

    def swap(self, key: str, data: bytes, expected: str | None) -> str:
        """Replace the object if its etag is `expected` (None: if there is none yet).

        Returns the new etag; raises ConflictError when somebody else was first.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises NotFound."""
        ...


def check_key(key: str) -> str:
    """Return `key`, or raise UsageError when it is none, or one that would leave the store."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no valid key: expected parts of letters, digits and ._=+@,-")
    return key


def check_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"{prefix!r} is not a valid beginning of a key.")
    return prefix


def not_found(url: str, key: str) -> NotFound:
    return NotFound(f"There is no '{key}' in {url}.")


def already_exists(url: str, key: str) -> AlreadyExists:
    return AlreadyExists(f"'{key}' exists already in {url}, and objects are written once.")


def conflict(url: str, key: str) -> ConflictError:
    return ConflictError(
        f"'{key}' in {url} was changed by somebody else in the meantime.",
        hint="Run the command again.",
    )


def changed(path: Path, sha256: str) -> IntegrityError:
    return IntegrityError(f"{path} was changed: its content is not {sha256}.")


def damaged(url: str, key: str, sha256: str) -> IntegrityError:
    return IntegrityError(
        f"'{key}' in {url} is damaged: its content is not {sha256}.",
        hint="Remove the damaged object and run the command again.",
    )
