"""A store in a local folder: a file per object, the same promises as on S3.

A file is written and synced under `.tmp`, then it gets its name in one step: by a hard link, which
fails if the name is taken (create once), or by a rename under a lock (compare and swap). So a
killed process leaves at most a stray file in `.tmp`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from trilho.errors import UsageError
from trilho.storage.base import (
    AlreadyExists,
    Stored,
    already_exists,
    changed,
    check_key,
    check_prefix,
    conflict,
    damaged,
    not_found,
)

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStore:
    """Objects as files below `root`, which appears with the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(root)

    def get(self, key: str) -> Stored:
        path = self._path(key)
        with _explained(path):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise not_found(self.url, key) from None
        return Stored(data, _etag(data))

    def put_once(self, key: str, data: bytes) -> str:
        self._create(key, lambda out: out.write(data))
        return _etag(data)

    def upload_once(self, key: str, path: Path, sha256: str) -> None:
        target = self._path(key)
        if not target.is_file():

            def copy(out: BinaryIO) -> None:
                hasher = hashlib.sha256()
                with open(path, "rb") as source:
                    while chunk := source.read(1 << 20):
                        hasher.update(chunk)
                        out.write(chunk)
                if "sha256:" + hasher.hexdigest() != sha256:
                    raise changed(path, sha256)

            with contextlib.suppress(AlreadyExists):
                return self._create(key, copy)
        if _file_digest(target) != sha256:
            raise damaged(self.url, key, sha256)
        return None

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        if not source.is_file():
            raise not_found(self.url, key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        with _explained(path):
            try:
                shutil.copyfile(source, partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def swap(self, key: str, data: bytes, expected: str | None) -> str:
        path = self._path(key)
        if expected is None:
            try:
                return self.put_once(key, data)
            except AlreadyExists:
                raise conflict(self.url, key) from None
        write = self._written(lambda out: out.write(data))
        with _explained(path), write as temporary, self._lock():
            try:
                current = _etag(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                current = None
            if current != expected:
                raise conflict(self.url, key)
            os.replace(temporary, path)
            _sync(path.parent)
        return _etag(data)

    def list(self, prefix: str) -> Iterator[str]:
        start = self.root / check_prefix(prefix).rpartition("/")[0]
        found = []
        for folder, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(folder).relative_to(self.root).as_posix().removeprefix(".")
            found += [
                f"{base}/{name}" if base else name for name in names if not name.startswith(".")
            ]
        yield from sorted(key for key in found if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        if not path.is_file():
            raise not_found(self.url, key)
        return path.stat().st_size

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _create(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        with _explained(path):
            if path.exists():  # spares the writing; the link below decides
                raise already_exists(self.url, key)
            with self._written(write) as temporary:
                _make_folder(path.parent)
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    raise already_exists(self.url, key) from None
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    with self._lock():  # this file system has no hard links
                        if path.exists():
                            raise already_exists(self.url, key) from None
                        os.replace(temporary, path)
                _sync(path.parent)

    @contextlib.contextmanager
    def _written(self, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A new file outside of the keys, complete and on disk; gone afterwards."""
        folder = self.root / ".tmp"
        _make_folder(folder)
        temporary = folder / secrets.token_hex(8)
        try:
            with open(temporary, "xb") as out:
                write(out)
                out.flush()
                os.fsync(out.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One holder at a time, among all threads and processes; a killed holder lets go."""
        with open(self.root / ".lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as f:
        return "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()


def _make_folder(folder: Path) -> None:
    """Create the folder and its parents, and see that they survive a crash."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in words what the operating system refused."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"Cannot use {error.filename or path}: {error.strerror or error}.",
            hint="Check the folder's permissions and the free space, or choose another registry.",
        ) from error
