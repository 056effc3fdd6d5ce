"""Objects by key, with create-once and compare-and-swap: on S3, or in a folder, alike.

Keys are paths such as `versions/000001.json`. No key may be a folder of another one. Nothing is
ever deleted here.
"""

from __future__ import annotations

import re
from pathlib import Path

from trilho.errors import UsageError
from trilho.storage.base import AlreadyExists, NotFound, Store, Stored

__all__ = ["AlreadyExists", "NotFound", "Store", "Stored", "open_store"]


def open_store(url: str) -> Store:
    """Return the store at `s3://bucket/prefix`, or in the folder of that path.

    Nothing is read or created yet.

    Raises
    ------
    UsageError
        Not an address that Trilho knows.
    """
    if url.startswith("s3://"):
        from trilho.storage.s3 import S3Store

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix)
    if not url.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url):
        raise UsageError(
            f"'{url}' is no place for a registry: expected s3://bucket/prefix or a folder."
        )
    from trilho.storage.folder import FolderStore

    return FolderStore(Path(url).expanduser())
